"""The outcomes of a run's processes, with their results, from the files that pass them on."""

import pickle
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dagster import DagsterInstance, DagsterRun
from upath import UPath

from ...domain.texts import explain
from ...process.run import NotStored, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUTPUT = "result"
"""The name of an op's output; see ``execution.op_functions``."""


def of_run(
    instance: DagsterInstance, run: DagsterRun, steps: Iterable[str]
) -> "Mapping[str, Outcome | str]":
    """Return the outcome of each of some steps; where it can't be read, why.

    Parameters
    ----------
    instance:
        Where the run is recorded.
    run:
        The run. What it did not repeat is read from the runs that it continues.
    steps:
        Keys of its steps.
    """
    folder = UPath(instance.storage_directory())
    runs = list(_with_those_before(instance, run))
    repeated = run.step_keys_to_execute  # nothing: all of them
    found: dict[str, Outcome | str] = {}
    for step in steps:
        where = runs[:1] if repeated is None or step in repeated else runs
        found[step] = _read([folder / each / step / _OUTPUT for each in where])
    return found


def _with_those_before(instance: DagsterInstance, run: DagsterRun) -> Iterator[str]:
    """Yield the ids of a run and of those that it repeats, the newest first."""
    seen: DagsterRun | None = run
    while seen is not None:
        yield seen.run_id
        seen = instance.get_run_by_id(seen.parent_run_id) if seen.parent_run_id else None


def _read(paths: list[UPath]) -> Outcome | str:
    for path in paths:
        try:
            outcome = pickle.loads(path.read_bytes())  # noqa: S301  # written by a run of the instance
        except (FileNotFoundError, NotADirectoryError):
            continue
        except Exception as error:  # noqa: BLE001  # unpickling runs the object's own code
            return f"Its result can't be read: {explain(error)}"
        if isinstance(outcome, Outcome) and isinstance(outcome.result, NotStored):
            return f"Its result was not stored: {outcome.result.reason}"
        return outcome if isinstance(outcome, Outcome) else "Its result is of another kind."
    return "Its result is not stored where this process can read it."
