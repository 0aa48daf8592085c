"""``python -m proctree_dagster.orchestration.template``: how every launcher starts it."""

from ...support import garbage

with garbage.not_collected():
    from .server import main

main()
