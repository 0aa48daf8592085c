"""Processes that open one home at the same moment.

``python -m tests.orchestration.opening host|django`` is one of them. For each line of its input, a
home and a moment of the clock, it waits for the moment, opens the home, uses each of its storages,
and prints ``served`` or what went wrong.
"""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.tools import TOP

OURS = """
instance_class:
  module: proctree_dagster.orchestration.storage
  class: ProctreeInstance
"""


class Opener:
    """One such process: ``host`` opens homes as Dagster does, ``django`` as Django does."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.orchestration.opening", way],
            cwd=TOP,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, home: Path, moment: float = 0.0) -> None:
        """Let it open a home at a moment of the clock."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{home}\t{moment}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Wait for its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def open_at_once(openers: Iterable[Opener], home: Path) -> list[str]:
    """Let them open a home at the same moment; return what went wrong."""
    asked = list(openers)
    moment = time.time() + 0.05
    for opener in asked:
        opener.ask(home, moment)
    return [answer for answer in (opener.answer() for opener in asked) if answer != "served"]


@contextmanager
def openers(*ways: str) -> Iterator[list[Opener]]:
    """Start processes that are ready to open homes, and end them."""
    started = [Opener(way) for way in ways]
    try:
        assert [opener.answer() for opener in started] == ["ready"] * len(ways)
        yield started
    finally:
        for opener in started:
            opener.process.communicate(timeout=60)  # its input ends, and so does it


def yaml_of_postgres(database: Mapping[str, object], *, scheme: str = "postgresql") -> str:
    """Return a ``dagster.yaml`` that names our storage on a database of the tests' server."""
    return f"""
storage:
  custom:
    module: proctree_dagster.orchestration.postgres
    class: PostgresStorage
    config:
      postgres_url: {address(database, scheme=scheme)}
"""


def address(database: Mapping[str, object], *, scheme: str = "postgresql") -> str:
    """Return the address of a database of the tests' server."""
    return f"{scheme}://{database['USER']}@/{database['NAME']}?host={database['HOST']}"


def open_as(way: str, home: str) -> None:
    """Open a home and use each of its storages."""
    from dagster import DagsterInstance

    from proctree_dagster.orchestration.runs import opening

    os.environ["DAGSTER_HOME"] = home
    with DagsterInstance.get() if way == "host" else opening.open_instance() as instance:
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        instance.event_log_storage.get_pool_limits()


def main(way: str) -> None:
    import django

    django.setup()
    from proctree_dagster.orchestration.runs import opening  # noqa: F401  # imported before the first

    print("ready", flush=True)
    for line in sys.stdin:
        home, moment = line.split("\t")
        time.sleep(max(0.0, float(moment) - time.time()))
        try:
            open_as(way, home)
        except Exception:  # noqa: BLE001  # whatever it is, it is what the test asks for
            print(traceback.format_exc()[-1500:].replace("\n", " | "), flush=True)
        else:
            print("served", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
