"""``python -m proctree_dagster.orchestration.template``: how every launcher starts it."""

from .process import main

main()
