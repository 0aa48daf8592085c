"""Others in processes of their own: what is installed, a worker, servers, and a client."""

import os
import shlex
import shutil
import signal
import subprocess
import uuid
import venv
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.tools.stack import wait_for

from .contest import QUEUED, Keeps
from .stacks import Noted, cpu_seconds

CODE = Path(__file__).parent / "code" / "peers"
"""What a client, a worker and settings are made of; all of it is copied beside each."""


class Program(Noted):
    """A worker, servers and a client that waits for what to launch, in processes of their own."""

    name: str
    keeps: Keeps
    few = False
    at_once: str
    packages: tuple[str, ...] = ()
    """What to install, the peer itself first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for file in CODE.glob("*.py"):
            shutil.copy(file, folder)
        self.notes = folder / "notes.txt"
        self.notes.touch()
        self.log = folder / "log.txt"
        self.answers = folder / "answers.txt"
        self.environment = folder.parent / f"venv-{self.packages[0]}" if self.packages else None
        self.processes: list[subprocess.Popen[str]] = []
        self.servers: list[psutil.Process] = []
        self._stops: list[Callable[[], object]] = []
        self._launched = 0

    def versions(self) -> str:
        """Return the releases of what is measured."""
        assert self.environment is not None
        names = [package.partition("[")[0] for package in self.packages]
        code = f"from importlib.metadata import version as v; print(*map(v, {names}))"
        done = self._run(str(self.environment / "bin" / "python"), "-c", code)
        pairs = zip(names, done.split(), strict=True)
        return ", ".join(f"{name} {number}" for name, number in pairs)

    def start(self) -> None:
        """Install it, start everything, and wait until a run can be launched."""
        if self.environment is not None:
            install(self.environment, self.packages)
        client = self.set_up()
        self.client = self.begin(*client, answers=True)
        self.wait("its client", lambda: "ready\n" in self.answers.read_text())

    def set_up(self) -> tuple[str, ...]:
        """Start all but the client; return the client's command."""
        raise NotImplementedError

    def env(self) -> Mapping[str, str]:
        """Return the environment of all of its processes, in which nothing is sent anywhere."""
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR", "TZ") if name in os.environ}
        python = [str(self.environment / "bin")] if self.environment else []
        return {
            **kept,
            "PATH": os.pathsep.join([*python, os.environ["PATH"]]),
            "HOME": str(self.folder),
            "PYTHONPATH": str(self.folder),
            "PYTHONUNBUFFERED": "1",
            "BENCH_NOTES": str(self.notes),
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def begin(self, *command: str, answers: bool = False) -> subprocess.Popen[str]:
        """Start a process, which ``stop`` ends."""
        with self.log.open("ab") as log, self.answers.open("ab") as out:
            process = subprocess.Popen(
                [shutil.which(command[0], path=self.env()["PATH"]) or command[0], *command[1:]],
                cwd=self.folder,
                env=self.env(),
                stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                stdout=out if answers else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        self.servers.append(psutil.Process(process.pid))
        return process

    def begin_until(self, said: str, *command: str) -> None:
        """Start a process, and wait until the log has a text."""
        self.begin(*command)
        self.wait(f"{command} to say {said!r}", lambda: said in self.log.read_text())

    def wait(self, what: str, ask: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for something while all processes live."""

        def asked() -> bool:
            dead = [process for process in self.processes if process.poll() is not None]
            assert not dead, f"{dead[0].args!r} ended:\n{self.log.read_text()[-2000:]}"
            return ask()

        wait_for(what, asked, seconds)

    def _run(self, *command: str) -> str:
        """Run a command of the peer's to its end; return what it prints."""
        path = shutil.which(command[0], path=self.env()["PATH"]) or command[0]
        done = subprocess.run(
            [path, *command[1:]], cwd=self.folder, env=self.env(), capture_output=True, text=True
        )
        assert not done.returncode, f"{command} exited {done.returncode}\n{done.stderr[-2000:]}"
        return done.stdout

    def postgres(self) -> dict[str, object]:
        """Start a PostgreSQL for this peer alone; return Django's settings of a new database."""
        from tests.tools.postgres import Postgres

        server = Postgres()
        self._stops.append(server.stop)
        self.servers.append(server.process())
        return server.new_database()

    def redis(self) -> str:
        """Start a Redis for this peer alone; return its address."""
        from tests.e2e.celery_workers import Redis

        server = Redis()
        self._stops.append(server.stop)
        self.servers.append(psutil.Process(server.process.pid))
        return server.url

    def stop(self) -> None:
        """Stop everything, the latest first, each as its service would be."""
        family = [each for top in self.processes for each in _family(top.pid)]
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        _, alive = psutil.wait_procs(family, timeout=5)
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        for process in self.processes:
            process.wait(15)
        for stop in reversed(self._stops):
            stop()
        self.processes, self.servers, self._stops = [], [], []

    def cpu(self) -> float:
        """Return the CPU seconds of every process that there is, and was."""
        return cpu_seconds(each for top in self.servers for each in _family(top.pid))

    def launch(self, tokens: Sequence[str]) -> float:
        """Launch a run of each token; return when the first was asked for."""
        assert self.client.stdin is not None
        self._launched += 1
        self.client.stdin.write(f"{' '.join(tokens)}\n")
        self.client.stdin.flush()
        self.wait("a launch", lambda: len(self._answered()) == self._launched)
        return self._answered()[-1]

    def _answered(self) -> list[float]:
        return launch_times(self.answers.read_text())

    def launch_one(self) -> tuple[float, str]:
        """Launch a run; return when, and the run's token."""
        token = uuid.uuid4().hex
        return self.launch([token]), token

    def throughput(self) -> float:
        """Return the runs per minute of ``QUEUED`` that are launched at once."""
        tokens = [uuid.uuid4().hex for _ in range(QUEUED)]
        at = self.launch(tokens)
        self.wait("all to end", lambda: self.all_noted("ends").keys() >= set(tokens), 1800)
        ended = self.all_noted("ends")
        return QUEUED * 60 / (max(ended[each] for each in tokens) - at)


def launch_times(answers: str) -> list[float]:
    """Return when each launch was asked for, of what a client has printed.

    Parameters
    ----------
    answers:
        All of its output: other lines than those of the protocol, and one that is not yet complete,
        are left out.
    """
    lines = [line for line in answers.splitlines(keepends=True) if line.endswith("\n")]
    return [float(line.split()[1]) for line in lines if line.startswith("launched ")]


def install(environment: Path, packages: Sequence[str]) -> None:
    """Create an environment with packages, if it is not there yet.

    Parameters
    ----------
    environment:
        Where.
    packages:
        What; the newest releases.
    """
    if environment.exists():
        return
    installer = shlex.split(os.environ.get("INSTALLER", ""))
    venv.create(environment, with_pip=not installer, symlinks=True)
    command = installer or [str(environment / "bin" / "pip")]
    done = subprocess.run(
        [*command, "install", "--quiet", *packages],
        env={**os.environ, "VIRTUAL_ENV": str(environment)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        shutil.rmtree(environment)
        raise AssertionError(f"{packages} could not be installed:\n{done.stderr[-2000:]}")


def _family(pid: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
