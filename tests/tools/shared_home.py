"""A home that several hosts share, and runs on them whose functions say that they were called."""

import shutil
import uuid
from pathlib import Path

import psutil
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from django.db import connections

from example.settings import DATABASES
from proctree_dagster.models import RunWorker
from proctree_dagster.services import run_workers
from proctree_dagster.support.os_processes import Identity
from tests.tools import TOP
from tests.tools.code_files import code_of
from tests.tools.host import Host
from tests.tools.stack import Stack, wait_for
from tests.tools.warm_python import Forks

LOST_AFTER = 6
GRACE = 2


class Home(Stack):
    """A home with trees, and hosts that share it."""

    def __init__(self, folder: Path, lost_after: float = LOST_AFTER) -> None:
        super().__init__(folder, told_to_reload=False)
        shutil.copy(code_of(__file__) / "e2e_functions.py", folder)
        database = {**DATABASES["default"], "NAME": str(folder / "db.sqlite3")}
        (folder / "e2e_settings.py").write_text(
            "from example.settings import *\n"
            "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['e2e_functions'],\n"
            f"            'LOST_AFTER': {lost_after}, 'TERMINATE_GRACE': {GRACE}}}\n"
        )
        self.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
        connections.settings["home"] = {
            **connections.settings["default"],
            **{"OPTIONS": {}, **database},
        }
        self.hosts: list[Host] = []
        self._forks = Forks(TOP, self.env)
        self.configure()
        self.migrate()
        names = "note", "hang", "hold_the_lock", "sleep", "start_programs"
        self.shell(
            f"for name in {names!r}:\n"
            "    tree = ProcessTreeInstance(name)\n"
            "    tree.add_process('only', func=f'e2e_functions:{name}').save()\n"
        )
        self.instance = DagsterInstance.from_config(str(self.home))
        self.here = self.host()

    def configure(self, **monitoring: object) -> None:
        """Set Dagster's run monitoring, for hosts that start after this; off by default."""
        path = self.home / "dagster.yaml"
        config = yaml.safe_load(path.read_text())
        config["run_monitoring"] = {"enabled": False, **monitoring}
        path.write_text(yaml.safe_dump(config))

    def host(self, name: str | None = None, *, boot: str | None = None) -> Host:
        """Start a host that has this home."""
        boot_id = None
        if boot is not None:
            boot_id = self.folder / f"boot_of_{name}"
            boot_id.write_text(boot)
        found = Host(name, self.env, self.log, self._forks, boot_id)
        self.hosts.append(found)
        return found

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._forks.stop()
        self.instance.dispose()
        connections["home"].close()
        # Settings that stay would let whoever asks for all connections make this one anew, and the
        # next home would be looked for in the database of this one.
        del connections["home"], connections.settings["home"]
        for process in psutil.process_iter():
            try:
                if process.environ().get("DAGSTER_HOME") == str(self.home):
                    process.kill()
            except psutil.Error:
                continue


class Run:
    """One run, and what its function has said."""

    def __init__(self, home: Home, run_id: str, word: str) -> None:
        self.home = home
        self.run_id = run_id
        self.word = word

    @classmethod
    def create(cls, home: Home, host: Host, tree: str, **context: object) -> "Run":
        word = f"word-{uuid.uuid4()}"
        return cls(home, host.create(tree, {"word": word, **context}), word)

    @classmethod
    def start(cls, home: Home, host: Host, tree: str, **context: object) -> "Run":
        """Launch it on a host, and wait until its function was called."""
        run = cls.create(home, host, tree, **context)
        host.launch(run.run_id)
        run.called()
        return run

    @property
    def record(self) -> DagsterRun:
        found = self.home.instance.get_run_by_id(self.run_id)
        assert found is not None
        return found

    @property
    def status(self) -> DagsterRunStatus:
        return self.record.status

    def ended(self, *looking: Host) -> DagsterRunStatus:
        """Wait until it has ended, while hosts look after the runs."""

        def look() -> DagsterRunStatus | None:
            for host in looking:
                host.settle()
            return self.status if self.record.is_finished else None

        return wait_for("a run to end", look, 90)

    @property
    def messages(self) -> str:
        return "\n".join(entry.message for entry in self.home.instance.all_logs(self.run_id))

    def calls(self) -> list[str]:
        path = self.home.folder / self.word
        return path.read_text().splitlines() if path.exists() else []

    def called(self) -> None:
        wait_for("a function to be called", self.calls)

    def may_go(self) -> None:
        (self.home.folder / f"{self.word} may go").touch()

    @property
    def row(self) -> RunWorker:
        return RunWorker.objects.using("home").get(run_id=self.run_id)

    @property
    def worker(self) -> Identity:
        return run_workers.worker_of(self.row)
