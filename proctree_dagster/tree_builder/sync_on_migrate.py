"""``PROCTREE["SYNC_ON_MIGRATE"]``: ``manage.py migrate`` syncs declared trees at its end."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, router

from ..exceptions import ProctreeError
from ..models import ProcessTree
from . import sync, sync_words

logger = logging.getLogger(__name__)


def after_migrate(using: str, verbosity: int = 1, stdout: Any = None) -> None:
    """Sync, and print what was changed. It raises nothing: the migrations are applied.

    Parameters
    ----------
    using:
        The database that was migrated; another one than that of the trees is passed by.
    verbosity:
        That of the command; 0: print errors only.
    stdout:
        Where it prints; ``None``: to the standard output.
    """
    if using != router.db_for_write(ProcessTree):
        return
    out = stdout or sys.stdout
    try:
        report = sync.sync()
    except (ProctreeError, DatabaseError) as error:
        logger.error("Process trees were not synced with the code: %s", error)
        return
    for problem in report.errors:
        logger.error("A process tree was not synced with the code: %s", problem)
    if verbosity:
        for line in _lines(report):
            out.write(f"{line}\n")


def _lines(report: sync.Report) -> Iterator[str]:
    if report.newer_release is not None:
        yield (
            f"Process trees were not synced: release {report.newer_release} has synced already, "
            "and this is an older one."
        )
    for tree in report.trees:
        said = sync_words.lines(tree)
        if said:
            yield f"Process tree {tree.name} ({tree.function}):"
            yield from (f"  {line}" for line in said)
