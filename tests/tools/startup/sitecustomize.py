"""Read by every Python that tests start: search for garbage rarely, and not at the end.

What such a process does is mostly to import Django and Dagster, which makes no garbage; to search
for it all the same takes a fifth of that time, and once more as much when the process ends.
"""

import atexit
import gc

gc.set_threshold(50_000)
atexit.register(gc.freeze)
