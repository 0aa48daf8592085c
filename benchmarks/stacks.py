"""Whole stacks to be compared: stock Dagster, and ours with and without a limit on runs."""

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.tools import TOP
from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

CODE = code_of(__file__)


class Launches(Protocol):
    """What runs are launched through, and measured."""

    name: str

    def launch_one(self) -> tuple[float, str]:
        """Launch a run; return when, and the run's token."""

    def noted(self, token: str, what: str) -> float | None:
        """Return when a process of a run noted something."""

    def ended(self, token: str) -> float:
        """Wait for the last process of a run; return when it ended."""

    def cpu(self) -> float:
        """Return the CPU seconds of every process that there is, and was."""


class Noted:
    """What runs note in a file."""

    notes: Path

    def noted(self, token: str, what: str) -> float | None:
        """Return when a process of a run said something."""
        return self.all_noted(what).get(token)

    def all_noted(self, what: str) -> dict[str, float]:
        """Return when processes of all runs said something first, by the run's token."""
        lines = [line.split() for line in self.notes.read_text().splitlines()]
        return {its: float(at) for its, said, at in reversed(lines) if said == what}

    def ended(self, token: str) -> float:
        """Wait for the last process of a run."""
        return wait_for("a run to end", lambda: self.noted(token, "ends"), 120)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of processes, and of the children that each has waited for."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


class Side(Noted, Stack):
    """A stack with the benchmark's tree."""

    name: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.notes = folder / "notes.txt"
        self.notes.touch()
        self.env["BENCH_NOTES"] = str(self.notes)
        self.env["DJANGO_SETTINGS_MODULE"] = "bench_settings"
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        # Without what tests add: their Pythons search for garbage rarely, and so keep it.
        self.env["PYTHONPATH"] = os.pathsep.join([str(folder), str(TOP)])
        for name in ("bench_functions.py", "bench_settings.py"):
            shutil.copy(CODE / name, folder)

    def prepare(self) -> None:
        """Fill the database."""
        self.manage("migrate", "-v0")
        self.shell(CODE / "save_tree.py", silently=True)

    def config(self, token: str) -> dict[str, Any]:
        """Return what the Launchpad would send."""
        return {"context": {"token": token}}

    def launch_one(self) -> tuple[float, str]:
        """Launch the tree in the UI's API; return when, and the run's token."""
        token = uuid.uuid4().hex
        at = time.time()
        self.launch("bench", self.config(token))
        return at, token

    def family(self) -> list[psutil.Process]:
        """Return every process of the stack."""
        found = []
        for process in self.processes:
            top = psutil.Process(process.pid)
            found += [top, *top.children(recursive=True)]
        return found

    def template(self) -> list[psutil.Process]:
        """Return the launcher's template process, if there is one."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(arg.endswith("orchestration.template") for arg in process.cmdline()):
                    found.append(process)
        return found

    def cpu(self) -> float:
        """Return the CPU seconds of the stack, and of every process that it has had."""
        return cpu_seconds(self.family())

    def memory(self) -> float:
        """Return the stack's memory in MiB: shared pages are counted once (PSS)."""
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20


class Ours(Side):
    """The example's settings, but for a template that ends while the benchmark can see it."""

    name = "ours"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.change(
            "class: WarmRunLauncher", "class: WarmRunLauncher\n  config: {idle_seconds: 90}"
        )

    def change(self, line: str, to: str) -> None:
        """Change the instance's settings."""
        settings = self.home / "dagster.yaml"
        text = settings.read_text()
        assert line in text
        settings.write_text(text.replace(line, to))


class Past(Ours):
    """Ours, without a limit on runs."""

    name = "past the queue"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.change("max_concurrent_runs: 10", "max_concurrent_runs: -1")


class Reusing(Ours):
    """Ours, with a tree whose workers execute further runs."""

    name = "reusing workers"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env["BENCH_REUSE"] = "1"


class ReusingPast(Past, Reusing):
    """The same, without a limit on runs."""

    name = "reusing workers, past the queue"


class Stock(Side):
    """Dagster as it comes."""

    name = "stock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        shutil.copy(CODE / "by_hand.py", folder)
        workspace = {
            "load_from": [
                {
                    "python_module": {
                        "module_name": "by_hand",
                        "location_name": self.selector["repositoryLocationName"],
                        "working_directory": str(folder),
                    }
                }
            ]
        }
        self.workspace = str(folder / "workspace.json")  # YAML, too
        Path(self.workspace).write_text(json.dumps(workspace))

    def prepare(self) -> None:
        """Fill the database; the job is in a file."""
        self.manage("migrate", "-v0")

    def config(self, token: str) -> dict[str, Any]:
        """Return what the Launchpad would send."""
        return {"ops": {name: {"config": {"token": token}} for name in ("first", "last")}}


@contextlib.contextmanager
def running(
    folder: Path, *makes: Callable[[Path], Side], as_services: bool = False
) -> Iterator[list[Side]]:
    """Start stacks one after another, and stop them; see ``Stack.start_dagster``."""
    sides: list[Side] = []
    try:
        for make in makes:
            side = make(folder / uuid.uuid4().hex[:6])
            sides.append(side)
            side.prepare()
            side.start_dagster(as_services=as_services)
        yield sides
    finally:
        for side in sides:
            side.stop()
