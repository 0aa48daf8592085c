"""Read by every Python that tests start: search for garbage rarely.

What such a process does is mostly to import Django and Dagster, which makes no garbage; to search
for it all the same takes a fifth of that time.
"""

import gc

gc.set_threshold(50_000)
