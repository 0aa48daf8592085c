"""``python -m proctree_dagster.orchestration.template``: how every launcher starts it."""

from .server import main

main()
