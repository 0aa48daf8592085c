"""Sixteen processes that all look for due times, until the file that is named appears.

Run as a program. They are forked from one that has imported everything, so they begin at once.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.tools.startup.forked_programs import share


def look_until(end: Path) -> None:
    """Be one of the sixteen, and look for due times."""
    from django.db import DatabaseError

    from proctree_dagster.tasks import check_and_run_scheduled_tasks

    while not end.exists():
        with suppress(DatabaseError):  # it is away; any scheduler would call again
            check_and_run_scheduled_tasks()
        time.sleep(4 - time.time() % 4)  # so that they look at the same moments


def fork_sixteen(work: Callable[[int], None]) -> int:
    """Let sixteen processes work, each with its number; return how many of them have failed."""
    import django

    django.setup()
    import proctree_dagster.orchestration.runs.create  # noqa: F401  # imported once for all
    from proctree_dagster.orchestration import repository  # noqa: F401
    from proctree_dagster.orchestration.template.preload import import_once, read_migrations_once

    import_once()
    read_migrations_once()  # what sixteen would each read again whenever they ask Dagster
    share()

    children = []
    for number in range(16):
        child = os.fork()
        if child == 0:
            failed = True
            try:
                work(number)
                failed = False
            finally:
                sys.stderr.flush()
                os._exit(failed)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(fork_sixteen(lambda number: look_until(Path(sys.argv[1]))))
