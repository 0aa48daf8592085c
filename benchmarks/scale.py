"""What ten thousand trees cost, beside what ten cost.

Every tree has four processes and a schedule. Cold starts, refreshes and run workers are those of
real processes; a refresh is what the daemon does each minute: it asks the code server for
everything and reads the answer.
"""

import contextlib
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from dagster import DagsterInstance
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

from tests.e2e import browser as browsers
from tests.e2e.stack import TOP, free_port, wait_for

from .stacks import Ours
from .table import Row, tell

FEW, MANY = 10, 10_000
UI_SIZES = (100, 1000, MANY)

FILL = """
import datetime as dt
functions = "bench_functions:{{}}".format
processes = [
    {{"name": "first", "func": functions("first")}},
    {{"name": "left", "func": functions("left"), "dependencies": ["first"]}},
    {{"name": "right", "func": functions("right"), "dependencies": ["first"]}},
    {{"name": "last", "func": functions("last"), "dependencies": ["left", "right"]}},
]
names = ["bench", *(f"tree_{{number:05}}" for number in range(1, {count}))]
trees = ProcessTree.objects.bulk_create(
    [ProcessTree(name=name, job_name=name, processes=processes) for name in names], 500
)
schedules = []
for number, tree in enumerate(trees):
    schedules.append(ProcessTreeSchedule(
        process_tree=tree, interval_minutes=1440, context={{"token": str(number)}},
        start_time=(timezone.now() - dt.timedelta(hours=1)).time(), timezone="UTC",
    ))
    schedules[-1].align(timezone.now())
ProcessTreeSchedule.objects.bulk_create(schedules, 500)
"""

LOADED = """query { workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }"""

CHECK_SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = [
    *(f"django.contrib.{{app}}" for app in "admin auth contenttypes sessions messages".split()),
    {app}
]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {{"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]}},
}}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "check_urls"
"""

CHECK_URLS = """
from django.contrib import admin
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
"""


class Sized(Ours):
    """A stack with so many trees, past the queue; with the warm launcher or with Dagster's."""

    def __init__(self, folder: Path, trees: int, *, warm: bool = True) -> None:
        super().__init__(folder)
        self.trees = trees
        self.change("max_concurrent_runs: 10", "max_concurrent_runs: -1")
        if not warm:
            (self.home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")

    def prepare(self) -> None:
        """Fill the database."""
        self.manage("migrate", "-v0")
        self.shell(FILL.format(count=self.trees), silently=True)

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


def cold_start(folder: Path, trees: int) -> tuple[float, dict[str, float]]:
    """Start ``dagster dev``, and return the seconds until its webserver has every job.

    Returns
    -------
    float, dict
        Seconds, and the memory in MiB (PSS) of each of its processes, by what it is.
    """
    side = Sized(folder, trees)
    side.prepare()
    try:
        at = time.monotonic()
        side.start_dagster()
        seconds = time.monotonic() - at
        time.sleep(20)  # the daemon gets its answer, too
        return seconds, memory(side)
    finally:
        side.stop()


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

    def ids(self) -> dict[str, str]:
        """Do what the daemon does each minute; return the id of every job's snapshot.

        It asks for everything, and then for each job.
        """
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
                servers.append(CodeServer(folder / f"code_server_{size}", size, instance))
                seconds = servers[-1].until_there()
                tell(f"code server of {size} trees: {seconds:.1f} s until a host had all of it")
            yield servers
        finally:
            for server in servers:
                server.stop()


def refresh(folder: Path, rounds: int) -> dict[int, list[float]]:
    """Return the seconds that the daemon's refresh takes after one edit, by how many trees."""
    samples: dict[int, list[float]] = {FEW: [], MANY: []}
    with code_servers(folder, FEW, MANY) as servers:
        for _ in range(rounds):
            for server in servers:
                samples[server.side.trees].append(server.refresh_after_an_edit())
    return samples


def worker_start(folder: Path, rounds: int, *, warm: bool) -> dict[int, list[float]]:
    """Return the seconds from a worker's launch to its tree's first line, by how many trees."""
    samples: dict[int, list[float]] = {FEW: [], MANY: []}
    sides = [Sized(folder / f"worker_{size}_{warm}", size, warm=warm) for size in samples]
    try:
        for side in sides:
            side.prepare()
            side.start_dagster()
        for number in range(rounds + 1):
            for side in sides:
                seconds = _worker_start(side)
                if number:  # the first one warms up
                    samples[side.trees].append(seconds)
    finally:
        for side in sides:
            side.stop()
    return samples


def _worker_start(side: Sized) -> float:
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
    (folder / "check_urls.py").write_text(CHECK_URLS)
    for name, app in (("with", '"proctree_dagster",'), ("without", "")):
        (folder / f"settings_{name}.py").write_text(CHECK_SETTINGS.format(app=app))
    samples: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for name in ("with", "without"):
            seconds, cpu = _check({"DJANGO_SETTINGS_MODULE": f"settings_{name}"}, folder)
            if number > 1:  # the first ones compile
                samples.setdefault(name, []).append(1000 * seconds)
                samples.setdefault(f"{name}_cpu", []).append(1000 * cpu)
    return samples


def _check(settings: Mapping[str, str], folder: Path) -> tuple[float, float]:
    env = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(folder), str(TOP)])}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before, at = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "django", "check"], env=env, check=True, capture_output=True
    )
    seconds, after = time.perf_counter() - at, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def pages(side: Sized, rounds: int) -> dict[str, list[float]]:
    """Return the seconds until a browser shows each page of the UI, from a fresh tab."""
    chromium = browsers.chromium()
    if chromium is None:
        return {}
    side.graphql(browsers.SKIP_THE_WELCOME)

    def jobs(tab: browsers.Tab) -> None:
        tab.open_jobs()
        tab.see("bench")

    def automation(tab: browsers.Tab) -> None:
        tab.open_schedules()
        tab.see("bench_schedule")

    visits: dict[str, Callable[[browsers.Tab], object]] = {
        "jobs": jobs,
        "automation": automation,
        "one job": lambda tab: tab.open_job("bench"),
        "Launchpad": lambda tab: tab.open_launchpad("bench"),
    }
    samples: dict[str, list[float]] = {name: [] for name in visits}
    with browsers.open_browser(chromium) as browser:
        for _ in range(rounds):
            for name, visit in visits.items():
                with browsers.open_tab(browser, side.url) as tab:
                    at = time.monotonic()
                    visit(tab)
                    samples[name].append(time.monotonic() - at)
    return samples


def ui(folder: Path, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Return what ``pages`` measures, by how many trees."""
    found = {}
    for size in UI_SIZES:
        side = Sized(folder / f"ui_{size}", size)
        side.prepare()
        try:
            side.start_dagster()
            found[size] = pages(side, rounds)
            told = {name: f"{statistics.median(each):.1f} s" for name, each in found[size].items()}
            tell(f"{size} trees: {told}")
        finally:
            side.stop()
    return found


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return the rows of the table; the baseline is few trees, or a project without the app."""
    cold: dict[int, list[float]] = {FEW: [], MANY: []}
    for number in range(3):  # each lasts long
        for size, samples in cold.items():
            seconds, memories = cold_start(folder / f"cold_{size}_{number}", size)
            samples.append(seconds)
            told = ", ".join(f"{kind} {mib:.0f} MiB" for kind, mib in sorted(memories.items()))
            tell(f"cold start of {size} trees: {seconds:.1f} s; {told}")
    refreshes = refresh(folder, rounds)
    forked = worker_start(folder, rounds, warm=True)
    stock = worker_start(folder, rounds, warm=False)
    checks = check_overhead(folder, max(rounds, 20))
    found = [
        Row(f"cold start, {MANY} trees beside {FEW}", "s", "≤ 30 s", cold[FEW], cold[MANY]),
        Row(
            f"refresh after an edit, {MANY} trees beside {FEW}",
            "s",
            "≤ 3×",
            refreshes[FEW],
            refreshes[MANY],
        ),
        Row(
            f"a warm worker's start, {MANY} trees beside {FEW}",
            "s",
            "≤ 1.1×",
            forked[FEW],
            forked[MANY],
        ),
        Row(
            f"a stock worker's start, {MANY} trees beside {FEW}",
            "s",
            "≤ 1.1×",
            stock[FEW],
            stock[MANY],
        ),
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
    by_size = ui(folder, max(3, rounds // 3))
    for page in by_size[UI_SIZES[0]]:
        for size in UI_SIZES[1:]:
            found.append(
                Row(
                    f"the UI's page “{page}”, {size} trees beside {UI_SIZES[0]}",
                    "s",
                    "stated",
                    by_size[UI_SIZES[0]][page],
                    by_size[size][page],
                )
            )
    return found
