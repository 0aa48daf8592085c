"""A chain of four functions that do nothing, by us and by others.

    .venv/bin/python -m benchmarks.peers [--rounds 10] [ours] [celery] …

Each of the others is installed into an environment of its own in a temporary folder, with pip or
with what ``INSTALLER`` names ("uv pip"), as it comes today and with its own defaults. All are up at
the same time, and take turns. One that can't be installed, started or measured is named below the
table with the reason. The machine is better left alone meanwhile; the load is printed.
"""

import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from tests.orchestration.opening import address
from tests.tools.stack import free_port

from . import launch, stacks
from .arguments import asked
from .contest import QUEUED, Field, Keeps, Peer, measure, table
from .programs import CODE, Program
from .stacks import Side


class Chain(Side):
    """A Dagster stack with the chain, in place of the tree of the other benchmarks."""

    keeps = Keeps(
        "events, result",
        "fails within ten seconds or so; may be retried from the failure",
        "yes, forked",
        "Dagster's, Django's admin",
        "yes",
        "yes",
    )
    few = False
    at_once = "10 runs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("bench_functions.py", "by_hand.py"):
            shutil.copy(CODE / name, folder)

    def prepare(self) -> None:
        """Save the chain as a tree; stock has it in a file, and does not read the tree."""
        self.manage("migrate", "-v0")
        self.shell(CODE / "save_tree.py", silently=True)

    def versions(self) -> str:
        """Return the releases of what is measured."""
        return f"dagster {version('dagster')}"

    def start(self) -> None:
        """Start it, and wait until a run can be launched."""
        self.prepare()
        self.start_dagster()

    def throughput(self) -> float:
        """Return the runs per minute of a stack of its own, whose daemon starts last."""
        folder = self.folder / uuid.uuid4().hex[:6]
        return launch.throughput(type(self), folder, QUEUED)


class Warm(Chain, stacks.Ours):
    """Ours, with a template that is up for as long as the others' workers are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.change("idle_seconds: 90", "idle_seconds: 0")


class Ours(Warm):
    """Ours, through the queue."""

    name = "ours, through the queue"


class Past(Warm, stacks.Past):
    """Ours, past the queue."""

    name = "ours, past the queue"
    at_once = "no limit"


class Stock(Chain, stacks.Stock):
    """Dagster as it comes."""

    name = "stock Dagster"
    keeps = Keeps(
        "events, result",
        "fails, as the code server sees its end",
        "yes, and one a step",
        "yes",
        "yes",
        "yes",
    )
    few = True


class ExecuteTree(Program):
    """Ours in the process that asks for it."""

    name = "ours, `execute_tree`"
    keeps = Keeps(
        "events, result",
        Ours.keeps.killed,
        "no, the caller's",
        Ours.keeps.ui,
        "yes",
        "yes",
    )
    at_once = "1 run"

    def set_up(self) -> tuple[str, ...]:
        """Save the tree."""
        side = Ours(self.folder / "stack")
        self._stops.append(side.stop)  # the shell that has saved it
        side.prepare()
        self._env = {**side.env, "BENCH_NOTES": str(self.notes)}
        self._env["PYTHONPATH"] += f"{os.pathsep}{self.folder}"
        return (sys.executable, str(self.folder / "execute_tree_peer.py"))

    def env(self) -> Mapping[str, str]:
        """Return the environment of the stack that it belongs to."""
        return self._env

    def versions(self) -> str:
        """Return the releases of what is measured."""
        return f"dagster {version('dagster')}"


class Dbos(Program):
    """DBOS with its queue, on SQLite."""

    name = "DBOS, SQLite"
    packages: tuple[str, ...] = ("dbos",)
    keeps = Keeps(
        "result",
        "resumed after its last step, when its process is started again",
        "no",
        "of Conductor, a service of its own",
        "yes",
        "not kept; sent by OpenTelemetry",
    )
    at_once = "no limit"

    def env(self) -> Mapping[str, str]:
        """Return the environment, which names the database."""
        return {**super().env(), "BENCH_URL": self._url}

    def database(self) -> str:
        """Return the address of a database."""
        return f"sqlite:///{self.folder / 'dbos.sqlite'}"

    def set_up(self) -> tuple[str, ...]:
        """Start the worker."""
        self._url = self.database()
        self.begin_until("ready\n", "python", "dbos_peer.py", "worker")
        return ("python", "dbos_peer.py", "client")

    _url = ""


class DbosPostgres(Dbos):
    """DBOS with its queue, on PostgreSQL."""

    name = "DBOS, PostgreSQL"

    def database(self) -> str:
        """Return the address of a database."""
        return address(self.postgres())


class DbosInProcess(Dbos):
    """DBOS in the process that asks for it, on SQLite."""

    name = "DBOS in process, SQLite"
    at_once = "1 run"

    def set_up(self) -> tuple[str, ...]:
        """Return the one command."""
        self._url = self.database()
        return ("python", "dbos_peer.py", "both")


class Celery(Program):
    """Celery with Redis as its broker and for its results."""

    name = "Celery, Redis"
    packages = ("celery[redis]", "redis")
    keeps = Keeps(
        "result, for a day",
        "not executed again, unless `acks_late` and `reject_on_worker_lost` are set",
        "no, a pool",
        "of Flower, a program of its own",
        "yes, by `celery beat`",
        "no",
    )
    at_once = f"{os.cpu_count()} steps"

    def set_up(self) -> tuple[str, ...]:
        """Start Redis and the worker."""
        self._url = self.redis()
        self.begin_until(" ready.", "celery", "-A", "celery_peer", "worker", "-l", "INFO")
        return ("python", "celery_peer.py")

    def env(self) -> Mapping[str, str]:
        """Return the environment, which names Redis."""
        return {**super().env(), "BENCH_URL": self._url}

    _url = ""


class DjangoQ(Program):
    """django-q2 with its broker in SQLite."""

    name = "django-q2, SQLite"
    packages = ("django-q2", "django")
    keeps = Keeps(
        "result, the last 250 by default",
        "its step is executed again, after `retry` seconds",
        "no, a pool",
        "Django's admin",
        "yes",
        "no",
    )
    at_once = f"{os.cpu_count()} steps"

    def set_up(self) -> tuple[str, ...]:
        """Create the tables and start the cluster."""
        self._run("python", "-m", "django", "migrate", "-v0")
        self.begin_until(" running.", "python", "-m", "django", "qcluster")
        return ("python", "django_q_peer.py")

    def env(self) -> Mapping[str, str]:
        """Return the environment, which names the settings and the database."""
        url = str(self.folder / "db.sqlite3")
        return {**super().env(), "DJANGO_SETTINGS_MODULE": "django_q_settings", "BENCH_URL": url}


class Procrastinate(Program):
    """Procrastinate on PostgreSQL; each job defers the next."""

    name = "procrastinate, PostgreSQL"
    packages = ("procrastinate",)
    keeps = Keeps(
        "status, events",
        "stays `doing`; a task of one's own finds it as stalled, and retries it",
        "no",
        "Django's admin",
        "yes, in code",
        "no",
    )
    at_once = "10 steps"

    def set_up(self) -> tuple[str, ...]:
        """Create the tables and start the worker."""
        self._url = address(self.postgres())
        app = ("procrastinate", "--app", "procrastinate_peer.app")
        self._run(*app, "schema", "--apply")
        self.begin_until("Starting worker", *app, "worker", "--concurrency", "10")
        return ("python", "procrastinate_peer.py")

    def env(self) -> Mapping[str, str]:
        """Return the environment, which names the database."""
        return {**super().env(), "BENCH_URL": self._url}

    _url = ""


class Prefect(Program):
    """A served flow of Prefect with a server on SQLite."""

    name = "Prefect, SQLite"
    packages = ("prefect",)
    keeps = Keeps(
        "state; result, if it is persisted",
        "is `Crashed`, as its runner sees; without its runner, if an automation is set up",
        "yes",
        "yes",
        "yes",
        "yes",
    )
    few = True
    at_once = "5 runs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    def set_up(self) -> tuple[str, ...]:
        """Start the server, and the flow's worker."""
        at = ("--host", "127.0.0.1", "--port", str(self.port))
        self.begin("prefect", "server", "start", *at)
        self.wait("the server", self._is_healthy)
        self.begin_until("being served", "python", "prefect_peer.py", "worker")
        return ("python", "prefect_peer.py", "client")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health") as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    def env(self) -> Mapping[str, str]:
        """Return the environment, which names the server."""
        return {
            **super().env(),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }


PEERS: dict[str, Callable[[Path], Peer]] = {
    "ours": Ours,
    "past": Past,
    "execute-tree": ExecuteTree,
    "stock": Stock,
    "dbos-sqlite": Dbos,
    "dbos-postgresql": DbosPostgres,
    "dbos-in-process": DbosInProcess,
    "celery": Celery,
    "django-q2": DjangoQ,
    "procrastinate": Procrastinate,
    "prefect": Prefect,
}


def main() -> None:
    """Measure, and print it."""
    given = asked("python -m benchmarks.peers", __doc__, PEERS)
    load = os.getloadavg()[0]
    entrants = Field()
    with tempfile.TemporaryDirectory() as folder:
        try:
            entrants.start({name: PEERS[name] for name in given.names or PEERS}, Path(folder))
            found = measure(entrants, given.rounds)
        finally:
            entrants.stop()
    print("\n".join(table(found, entrants.failed)))
    print(
        f"\nMedians (least to most; samples), taking turns, on {os.cpu_count()} cores; "
        f"load average {load:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
