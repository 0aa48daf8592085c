"""Removing old history from Python; Dagster's daemon does it, too (``PROCTREE["KEEP"]``)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..orchestration.pruning.passes import Pruned


def prune(*, dry_run: bool = False, rewrite: bool = False) -> "Pruned":
    """Remove what ``PROCTREE["KEEP"]`` and the trees' own rules do not keep, in small batches.

    Parameters
    ----------
    dry_run:
        Whether nothing is removed, only counted.
    rewrite:
        Whether SQLite's files are rewritten that give no space back otherwise: it locks them.

    Raises
    ------
    InstanceError
        Dagster has no home, or nothing can be removed from its storage.
    """
    from ..orchestration.pruning import passes
    from ..orchestration.runs import opening

    with opening.open_instance(persistent=True, create=False) as instance:
        return passes.prune(instance, dry_run=dry_run, rewrite=rewrite)
