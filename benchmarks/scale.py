"""What ten thousand trees cost, beside what ten cost.

Every tree has four processes and a schedule. Cold starts, refreshes and run workers are those of
real processes; a refresh is what the daemon does each minute: it asks the code server for
everything and reads the answer.
"""

import contextlib
import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from dagster import DagsterInstance
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

# What makes a process a host: without it, it fetches every job's snapshot, as Dagster's own do.
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation  # noqa: F401

from proctree_dagster.orchestration import hosts
from tests.tools import TOP
from tests.tools import browser as browsers
from tests.tools.code_files import code_of
from tests.tools.stack import free_port, wait_for

from .launch import idle_cpu
from .stacks import Ours
from .table import Row, tell

CODE = code_of(__file__)

FEW, MANY = 10, 10_000
IDLE_SECONDS = 60

TARGETS = {
    "cold start": "≤ 30 s",
    "until the daemon has a new tree": "≤ 3×",
    "a warm worker's start": "≤ 1.1×",
}

STOCK_LAUNCHER = """
scheduler:
  module: proctree_dagster.orchestration.hosts
  class: LazyHostScheduler
telemetry:
  enabled: false
"""

NEW = """
tree = ProcessTree.objects.create(
    name="{name}", processes=[{{"name": "first", "func": "bench_functions:first"}}]
)
schedule = ProcessTreeSchedule(process_tree=tree, interval_minutes=1440, timezone="UTC")
schedule.start_time = (timezone.now() - datetime.timedelta(hours=1)).time()
schedule.save()
"""

LOADED = """query { workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }"""


class Sized(Ours):
    """A stack with so many trees, past the queue; with the warm launcher or with Dagster's."""

    def __init__(self, folder: Path, trees: int, *, warm: bool = True) -> None:
        super().__init__(folder)
        self.trees = trees
        self.change("max_concurrent_runs: 10", "max_concurrent_runs: -1")
        if not warm:
            (self.home / "dagster.yaml").write_text(STOCK_LAUNCHER)

    def prepare(self) -> None:
        """Fill the database."""
        self.manage("migrate", "-v0")
        self.shell(CODE / "fill.py", silently=True, BENCH_TREES=str(self.trees))

    def forget(self) -> None:
        """Let Dagster begin anew: its history, and what its daemon knows of the schedules."""
        for name in ("history", "schedules", "storage"):
            shutil.rmtree(self.home / name, ignore_errors=True)

    def start_dagster(self, *, as_services: bool = False) -> None:
        """Start ``dagster dev``, and wait for it as long as many trees take."""
        assert not as_services
        self._start("dagster", "dev", "-h", "127.0.0.1", "-p", str(self.port))
        wait_for("Dagster to serve its jobs", self._serves, 900)

    def _serves(self) -> bool:
        for process in self.processes:
            assert process.poll() is None, self.log.read_text()[-3000:]
        try:
            [entry] = self.graphql(LOADED)["workspaceOrError"]["locationEntries"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        kind = (entry["locationOrLoadError"] or {}).get("__typename")
        assert kind in (None, "RepositoryLocation"), kind
        return entry["loadStatus"] == "LOADED" and kind is not None


def whole_stacks(folder: Path, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Measure what grows with the number of trees, in ``dagster dev`` with few and with many.

    Returns
    -------
    dict
        By the number of trees: elapsed seconds until the webserver has every job, and the CPU
        seconds of all processes until then; what they take of a core while nothing happens (%); the
        memory of each of them (MiB, PSS); and the seconds until a new tree's schedule is the
        daemon's, until a worker has begun, and until a browser shows each page.
    """
    sides = [Sized(folder / f"stack_{trees}", trees) for trees in (FEW, MANY)]
    found: dict[int, dict[str, list[float]]] = {side.trees: {} for side in sides}

    def add(side: Sized, name: str, value: float) -> None:
        found[side.trees].setdefault(name, []).append(value)
        tell(f"{side.trees} trees, {name}: {value:.2f}")

    def idle(when: str) -> None:
        for side, share in zip(sides, idle_cpu(sides, IDLE_SECONDS), strict=True):
            add(side, f"idle CPU, {when}", 100 * share)

    try:
        for side in sides:
            side.prepare()
        for _ in range(rounds):
            for side in sides:
                side.forget()
                at = time.monotonic()
                side.start_dagster()
                add(side, "cold start", time.monotonic() - at)
                add(side, "cold start, CPU", side.cpu())
                side.stop()
        for side in sides:
            side.start_dagster()
        time.sleep(20)  # the daemon gets its answer, too
        idle("just started")
        for side in sides:
            for kind, mib in memory(side).items():
                add(side, f"memory of the {kind}", mib)
        with pages(sides) as visit:
            for number in range(rounds + 1):
                for side, page in itertools.product(sides, PAGES):
                    if visit is not None:
                        first = ", first" if number == 0 else ""
                        add(side, f"the UI's page “{page}”{first}", visit(side, page))
        for number in range(rounds):
            for side, seconds in zip(sides, until_daemons_have_it(sides, number), strict=True):
                add(side, "until the daemon has a new tree", seconds)
        for number in range(rounds + 1):
            for side in sides:
                seconds = worker_start(side)
                if number:  # the first one warms up
                    add(side, "a warm worker's start", seconds)
        idle("settled")
        return found
    finally:
        for side in sides:
            side.stop()


def until_daemons_have_it(sides: list[Sized], number: int) -> list[float]:
    """Return the seconds from a save until each daemon has it, its pause of a minute included.

    A new tree with a schedule, of which nobody tells Dagster. When the daemon sees it for the first
    time, it writes down that it looks after the schedule.
    """
    name = f"late_{number}"
    saved: list[float] = []
    for side in sides:
        side.shell(NEW.format(name=name), silently=True)
        saved.append(time.monotonic())
    seen: dict[int, float] = {}

    def all_have_it() -> bool:
        for index, side in enumerate(sides):
            if index not in seen and _looks_after(side, name):
                seen[index] = time.monotonic() - saved[index]
        return len(seen) == len(sides)

    wait_for("the daemons to have it", all_have_it, 300)
    time.sleep(17)  # so that not each comes as long after a refresh
    return [seen[index] for index in range(len(sides))]


def _looks_after(side: Sized, tree: str) -> bool:
    """Whether the daemon has written it down; Dagster's API would read all ten thousand."""
    storage = side.home / "schedules" / "schedules.db"
    with contextlib.closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as database:
        found = database.execute(
            "SELECT 1 FROM jobs WHERE job_body LIKE ?", [f'%"{tree}_schedule"%']
        )
        return found.fetchone() is not None


def memory(side: Ours) -> dict[str, float]:
    """Return the memory in MiB (PSS) of a stack's processes, by what they are."""
    kinds = {
        "webserver": "dagster_webserver",
        "daemon": "dagster._daemon",
        "template": "orchestration.template",
        "code server": "code-server",
        "code server's inner process": "grpc",
    }
    found: dict[str, float] = {}
    for process in side.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            kind = next((name for name, word in kinds.items() if word in line), "others")
            pss = process.memory_full_info().pss / 2**20
            found[kind] = found.get(kind, 0.0) + pss
    return found


class CodeServer:
    """A code server by itself, and what the daemon asks of it each minute."""

    def __init__(self, folder: Path, trees: int, instance: DagsterInstance) -> None:
        self.side = Sized(folder, trees)
        self.side.prepare()
        self._instance = instance
        self._port = free_port()
        self._edits = 0
        self.first = 0.0
        self._known: dict[str, str] = {}
        command = ["api", "grpc", "-p", str(self._port), "-m", "definitions"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dagster", *command, "--location-name", "proctree"],
            cwd=TOP,
            env=self.side.env,
            stdout=self.side.log.open("ab"),
            stderr=subprocess.STDOUT,
        )

    def until_there(self) -> float:
        """Wait for its first answer, and return how many seconds that took."""
        at = time.monotonic()
        wait_for("the code server", self._answers, 600)
        return time.monotonic() - at

    def _answers(self) -> bool:
        try:
            self._known = self.ids()
            return bool(self._known)
        except Exception:  # noqa: BLE001  # it is not there yet
            return False

    def cpu(self) -> float:
        """Return the CPU seconds that it has taken since it was started."""
        process = psutil.Process(self._process.pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:4]) for each in family)

    def memory(self) -> float:
        """Return its memory in MiB (PSS)."""
        return float(psutil.Process(self._process.pid).memory_full_info().pss / 2**20)

    def ids(self) -> dict[str, str]:
        """Do what the daemon does each minute; return the id of every job's snapshot."""
        origin = GrpcServerCodeLocationOrigin(
            host="127.0.0.1", port=self._port, location_name="proctree"
        )
        with origin.create_location(self._instance) as location:
            repository = location.get_repository("process_trees")
            repository.get_schedules()
            return {job.name: job.identifying_job_snapshot_id for job in repository.get_all_jobs()}

    def refresh_after_an_edit(self) -> float:
        """Edit one tree, and return the seconds that a refresh takes to see it."""
        before = self._known
        time.sleep(1.2)  # what was just read serves for a second
        self._edits += 1
        with contextlib.closing(sqlite3.connect(self.side.env["EXAMPLE_DATABASE"])) as database:
            database.execute(
                "UPDATE proctree_dagster_processtree SET description = ? WHERE name = 'bench'",
                [f"edit {self._edits}"],
            )
            database.commit()
        at = time.monotonic()
        after = self._known = self.ids()
        seconds = time.monotonic() - at
        assert {name for name in after if after[name] != before[name]} == {"bench"}
        return seconds

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)


@contextlib.contextmanager
def code_servers(folder: Path, *sizes: int) -> Iterator[list[CodeServer]]:
    """Start code servers one after another, and stop them."""
    servers: list[CodeServer] = []
    with DagsterInstance.ephemeral() as instance:
        try:
            for size in sizes:
                server = CodeServer(folder / f"code_server_{size}", size, instance)
                servers.append(server)
                before = time.process_time()
                server.first = server.until_there()
                tell(
                    f"code server of {size} trees: {server.first:.1f} s until a host had all of it "
                    f"(CPU: {server.cpu():.1f} s, the host {time.process_time() - before:.1f} s); "
                    f"{server.memory():.0f} MiB"
                )
            yield servers
        finally:
            for server in servers:
                server.stop()


def refresh(folder: Path, rounds: int) -> tuple[dict[int, float], dict[int, list[float]]]:
    """Return the seconds of a code server's start, and of a refresh after one edit, by size."""
    assert hosts.install(), "this process is the host"
    samples: dict[int, list[float]] = {FEW: [], MANY: []}
    with code_servers(folder, FEW, MANY) as servers:
        for server in servers:
            at, host = server.cpu(), time.process_time()
            samples[server.side.trees] = [server.refresh_after_an_edit() for _ in range(rounds)]
            tell(
                f"{server.side.trees} trees: CPU of a refresh after an edit: code server "
                f"{(server.cpu() - at) / rounds:.3f} s, host "
                f"{(time.process_time() - host) / rounds:.3f} s; {server.memory():.0f} MiB"
            )
        return {server.side.trees: server.first for server in servers}, samples


def stock_worker_starts(folder: Path, rounds: int) -> dict[int, list[float]]:
    """Return the seconds of ``worker_start`` with Dagster's launcher, by how many trees."""
    sides = [Sized(folder / f"stock_{trees}", trees, warm=False) for trees in (FEW, MANY)]
    try:
        for side in sides:
            side.prepare()
            side.start_dagster()
        samples = [[worker_start(side) for side in sides] for _ in range(rounds + 1)][1:]
        return {side.trees: [each[index] for each in samples] for index, side in enumerate(sides)}
    finally:
        for side in sides:
            side.stop()


def worker_start(side: Sized) -> float:
    """Return the seconds from a worker's launch to its tree's first line."""
    query = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status stats {
      ... on RunStatsSnapshot { launchTime } } } } }"""
    token = os.urandom(8).hex()
    run = side.launch("bench", side.config(token))
    begun = wait_for("a run to begin", lambda: side.noted(token, "begins"), 120)
    side.ended(token)
    time.sleep(2)  # the worker ends
    launched = side.graphql(query, id=run)["runOrError"]["stats"]["launchTime"]
    return begun - float(launched)


def check_overhead(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds that ``manage.py check`` takes, with the app and without it.

    Elapsed ones (``with``, ``without``), and those on a processor (``with_cpu``, …).
    """
    for file in ("check_settings.py", "check_urls.py"):
        shutil.copy(CODE / file, folder)
    samples: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for name, apps in (("with", "proctree_dagster"), ("without", "")):
            seconds, cpu = _check(apps, folder)
            if number > 1:  # the first ones compile
                samples.setdefault(name, []).append(1000 * seconds)
                samples.setdefault(f"{name}_cpu", []).append(1000 * cpu)
    return samples


def _check(apps: str, folder: Path) -> tuple[float, float]:
    env = {
        **os.environ,
        "BENCH_APPS": apps,
        "DJANGO_SETTINGS_MODULE": "check_settings",
        "PYTHONPATH": os.pathsep.join([str(folder), str(TOP)]),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before, at = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "django", "check"], env=env, check=True, capture_output=True
    )
    seconds, after = time.perf_counter() - at, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _see_jobs(tab: browsers.Tab) -> None:
    tab.open_jobs()
    tab.see("bench")


def _see_automation(tab: browsers.Tab) -> None:
    tab.open_schedules()
    tab.see("bench_schedule")


PAGES: Mapping[str, Callable[[browsers.Tab], object]] = {
    "jobs": _see_jobs,
    "automation": _see_automation,
    "one job": lambda tab: tab.open_job("bench"),
    "Launchpad": lambda tab: tab.open_launchpad("bench"),
}


@contextlib.contextmanager
def pages(sides: list[Sized]) -> Iterator[Callable[[Sized, str], float] | None]:
    """Return what gives the seconds until a browser shows a page, from a fresh tab, if it can."""
    chromium = browsers.chromium()
    if chromium is None:
        tell("no Chromium: the pages of the UI are left out")
        yield None
        return
    for side in sides:
        side.graphql(browsers.SKIP_THE_WELCOME)
    with browsers.open_browser(chromium) as browser:

        def visit(side: Sized, page: str) -> float:
            with browsers.open_tab(browser, side.url) as tab:
                at = time.monotonic()
                PAGES[page](tab)
                return time.monotonic() - at

        yield visit


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return the rows of the table; the baseline is few trees, or a project without the app.

    About an hour with ten rounds.
    """
    first, refreshes = refresh(folder, rounds)
    stacks = whole_stacks(folder, rounds)
    few, many = stacks[FEW], stacks[MANY]
    stock = stock_worker_starts(folder, rounds)
    checks = check_overhead(folder, max(rounds, 20))
    beside = f"{MANY} trees beside {FEW}"
    found = [
        Row(f"a code server and a host, {beside}", "s", "≤ 30 s", [first[FEW]], [first[MANY]]),
        Row(f"refresh after an edit, {beside}", "s", "stated", refreshes[FEW], refreshes[MANY]),
        *(
            Row(f"{name}, {beside}", _unit(name), TARGETS.get(name, "stated"), few[name], values)
            for name, values in many.items()
            if few.get(name) and values
        ),
        Row(f"a stock worker's start, {beside}", "s", "≤ 1.1×", stock[FEW], stock[MANY]),
        Row(
            "`manage.py check` with the app, beside without",
            "ms",
            "≤ 30 ms more",
            checks["without"],
            checks["with"],
        ),
        Row(
            "its CPU time",
            "ms",
            "≤ 30 ms more",
            checks["without_cpu"],
            checks["with_cpu"],
        ),
    ]
    return found


def _unit(name: str) -> str:
    return "MiB" if name.startswith("memory") else "% of a core" if name.startswith("idle") else "s"
