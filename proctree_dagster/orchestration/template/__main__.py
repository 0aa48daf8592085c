"""``python -m proctree_dagster.orchestration.template``: how every launcher starts it."""

import gc

gc.disable()  # until all is imported: see support/garbage.py

from .server import main  # noqa: E402

main()
