"""How results pass from process to process: through files in the instance's storage folder.

Like Dagster's own ``fs_io_manager``, but for a result that can't be pickled: that is not stored,
which matters only to a process that depends on it.
"""

import logging
import pickle
from dataclasses import replace
from typing import Any

from dagster import InitResourceContext, InputContext, OutputContext, UPathIOManager, io_manager
from upath import UPath

from ...domain import run_tags
from ...domain.texts import explain
from ...process.run import NotRead, NotStored, Outcome

logger = logging.getLogger(__name__)


class ResultIOManager(UPathIOManager):
    """Pickles outcomes into files."""

    def dump_to_path(self, context: OutputContext, obj: Outcome, path: UPath) -> None:
        """Store an outcome; without its result if that can't be pickled."""
        try:
            data = pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001  # pickling runs the object's own code
            process = _process(context)
            context.log.warning(
                f"The result of process {process!r} can't be pickled, so it is shown but not "
                f"stored: {explain(error)}"
            )
            variables = {k: v for k, v in obj.response_variables.items() if _is_stored(v)}
            if unstored := sorted(obj.response_variables.keys() - variables.keys()):
                context.log.warning(
                    f"Response variables of process {process!r} can't be pickled either, and are "
                    f"not stored: {', '.join(unstored)}."
                )
            not_stored = NotStored(process, explain(error))
            lost = replace(obj, result=not_stored, response_variables=variables)
            data = pickle.dumps(lost, pickle.HIGHEST_PROTOCOL)
        path.write_bytes(data)

    def load_from_path(self, context: InputContext, path: UPath) -> Any:
        """Load an outcome for a process that depends on it.

        What can't be read fails that process, and not what need not succeed with it.
        """
        try:
            return pickle.loads(path.read_bytes())  # noqa: S301  # written by a run of the instance
        except FileNotFoundError:
            why = (
                f"{path} is gone. PROCTREE['KEEP']['results'] says how long results are kept; "
                "without them a run can only be repeated in full."
            )
        except Exception as error:  # unpickling runs the object's own code
            logger.warning("The result at %s can't be read.", path, exc_info=True)
            why = f"{explain(error)} (in {path})"
        assert context.upstream_output is not None  # else there would be no path
        return Outcome("completed", NotRead(_process(context.upstream_output), why))


def _process(context: OutputContext) -> str:
    """Return the name of the process that an outcome is of."""
    return str((context.op_def.tags or {}).get(run_tags.PROCESS, context.step_key))


def _is_stored(value: Any) -> bool:
    try:
        pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001  # pickling runs the object's own code, and the caller says so
        return False
    return True


@io_manager(description="Keeps the outcomes of processes in the instance's storage folder.")
def result_io_manager(context: InitResourceContext) -> ResultIOManager:
    """Return the IO manager of a run."""
    assert context.instance is not None
    return ResultIOManager(base_path=UPath(context.instance.storage_directory()))
