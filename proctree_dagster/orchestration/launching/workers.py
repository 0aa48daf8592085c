"""Run workers, as recorded on their runs in Dagster.

The tag is for processes without Django's database: Dagster's daemon and webserver, which run the
launcher. Once the worker has taken its run, the row (``run_workers``) decides.
"""

import json
import signal
from dataclasses import asdict, dataclass, fields, replace

from dagster import DagsterRun

from ...domain import run_tags
from ...support.os_processes import Identity, State
from ...support.os_processes import started as started  # public here

_MAX_PID = 2**31
"""More than the id of any process."""


@dataclass(frozen=True)
class Worker:
    """The process that executes a run."""

    run_id: str
    """The run: re-execution copies tags, so another run may carry this one's."""

    host: str
    """The name of the machine it is on."""

    pid: int
    """Its process id there; also its process group's, if it is dedicated."""

    started: str
    """When it started (see ``os_processes.started``)."""

    boot_id: str = ""
    """The boot of its machine; blank if unknown."""

    pid_namespace: str = ""
    """The PID namespace in which its id counts."""

    dedicated: bool = True
    """Whether it exists for this run only; a caller's process is interrupted, never ended."""

    shared: bool = False
    """Whether it may have executed other runs, or go on to others: it is never interrupted but by
    its guardian, which ends with the run."""

    guardian: int = 0
    """The process id of its guardian, which lets it cancel its run and ends it if it does not."""

    guardian_started: str = ""
    """When its guardian started: the id may be given to another process."""

    @classmethod
    def of_process(cls, run_id: str, pid: int, *, shared: bool = False) -> "Worker":
        """Return a process that can be seen from here as a worker."""
        return replace(cls.of_identity(run_id, Identity.of(pid)), shared=shared)

    @classmethod
    def of_identity(cls, run_id: str, process: Identity) -> "Worker":
        """Return a process as a worker."""
        return cls(run_id=run_id, **asdict(process))

    @classmethod
    def of_run(cls, run: DagsterRun) -> "Worker | None":
        """Return the worker in a run's tags, or ``None``."""
        written = map(cls.from_text, run_tags.values(run.tags, run_tags.WORKER))
        return next((each for each in written if each and each.run_id == run.run_id), None)

    @classmethod
    def from_text(cls, text: str) -> "Worker | None":
        """Return the worker that ``text`` encodes, or ``None``.

        Anybody may have typed it: it is a tag.
        """
        try:
            worker = cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError):
            return None
        return worker if worker._makes_sense() else None

    def _makes_sense(self) -> bool:
        texts = (self.run_id, self.host, self.started, self.boot_id, self.pid_namespace)
        return (
            all(isinstance(each, str) for each in (*texts, self.guardian_started))
            and all(
                type(each) is int and 0 <= each < _MAX_PID for each in (self.pid, self.guardian)
            )
            and isinstance(self.dedicated, bool)
            and isinstance(self.shared, bool)
        )

    def as_text(self) -> str:
        """Return the text that ``from_text`` reads, without default values."""
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(values, separators=(",", ":"))

    def as_tags(self) -> dict[str, str]:
        """Return the worker's tag of the run."""
        return {run_tags.WORKER: self.as_text()}

    @property
    def process(self) -> Identity:
        """The process."""
        return Identity(self.host, self.boot_id, self.pid_namespace, self.pid, self.started)

    def __str__(self) -> str:
        return str(self.process)

    @property
    def has_died(self) -> bool:
        """Whether it is known to have ended; False for one that can't be seen from here."""
        return self.process.state is State.GONE

    def cancel(self) -> bool:
        """Interrupt it to cancel its run, as Ctrl-C would; return False if it can't be reached.

        Its guardian, if it has one, ends it when it does not within the grace period.
        """
        if not self.process.is_visible or not self.dedicated:
            return False
        guardian = replace(self.process, pid=self.guardian, started=self.guardian_started)
        if self.guardian and guardian.send(signal.SIGTERM):
            return True
        return not self.shared and self.process.send(signal.SIGINT)

    def guarded_by(self, guardian: int) -> "Worker":
        """Return it with its guardian, a process that can be seen from here; 0: it has none."""
        since = started(guardian) if guardian else None
        return replace(self, guardian=guardian, guardian_started=since or "")


def may_be_shared(run: DagsterRun) -> bool:
    """Return whether a run may be executed by a process that executes others, too."""
    return run_tags.REUSE_WORKER in run.tags
