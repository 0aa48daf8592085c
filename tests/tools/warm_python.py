"""A ``python`` for people who type commands: each runs in a fork of one that has imported Dagster.

To import Django and Dagster takes most commands longer than what they do. Nothing of the project
is imported before: a command reads its files as they are at that moment.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.tools.code_files import code_of

CODE = code_of(__file__)


class WarmPython:
    """The process that forks; it ends with the process that has started it."""

    def __init__(self, folder: Path, env: Mapping[str, str], python: str = sys.executable) -> None:
        """Start it.

        Parameters
        ----------
        folder:
            A folder for the executable file ``python``.
        env:
            The environment of the commands: one with another environment runs by itself.
        python:
            The Python that it stands for.
        """
        address = f"proctree-tests-python-{os.getpid()}-{id(self)}"
        self.executable = folder / "python"
        self.executable.write_text(
            f'#!/bin/sh\nexec {python} -ISP {CODE / "ask.py"} {address} {python} "$@"\n'
        )
        self.executable.chmod(0o755)
        self._server = subprocess.Popen(
            [python, "-P", str(CODE / "serve.py"), address],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,  # its end tells the server that nobody is left
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n", "the Python that forks did not start"

    def stop(self) -> None:
        """End it; commands that still run go on to their ends."""
        self._server.communicate(timeout=30)
