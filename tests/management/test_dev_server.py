"""In what order ``proctree dev`` starts its processes; what they do is tested with real ones."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from proctree_dagster.management import dev_server
from proctree_dagster.management.dev_server import Address, DevServer
from tests.tools.code_files import code_of
from tests.tools.stack import free_port

CODE = code_of(__file__)


class Started(DevServer):
    """Small programs instead of Dagster's: a code server, and two that ask it."""

    code_server: Sequence[str] = (str(CODE / "slow_code_server.py"),)

    def _commands(self, folder: str) -> list[list[str]]:
        socket = str(dev_server._code_socket(folder))
        client = [sys.executable, str(CODE / "client.py"), socket]
        return [[sys.executable, *self.code_server, socket, "code-server"], client, client]


def run(started: type[Started], home: Path) -> str:
    server = started(str(home), Address("127.0.0.1", free_port()), None, verbose=False, login=True)
    return server.run(lambda: None)


@pytest.mark.usefixtures("dagster_home")
def test_what_asks_the_code_server_is_started_when_it_listens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "Dagster's code server has ended with exit code 0" in run(Started, tmp_path)
    assert capfd.readouterr().out.splitlines() == ["in time", "in time"]


@pytest.mark.usefixtures("dagster_home")
def test_a_code_server_that_ends_before_it_listens_is_named_at_once(tmp_path: Path) -> None:
    class Broken(Started):
        code_server = ("-c", "raise SystemExit(3)")

    assert "Dagster's code server has ended with exit code 3" in run(Broken, tmp_path)
