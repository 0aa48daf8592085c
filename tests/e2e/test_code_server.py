"""A webserver whose code server has died is noticed, and gets another."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools.stack import Stack, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack")
    stack.set_up_example()
    try:
        yield stack
    finally:
        stack.stop()


def test_a_webserver_whose_code_server_was_killed_launches_again_and_the_doctor_says_why_not(
    stack: Stack,
) -> None:
    stack.start_webserver()
    webserver = psutil.Process(stack.processes[0].pid)
    (code_server,) = [
        child for child in webserver.children(recursive=True) if "grpc" in child.cmdline()
    ]
    assert "The webserver reaches its code server." in stack.type("proctree", "doctor").stdout
    code_server.kill()
    code_server.wait(30)
    examined = stack.type("proctree", "doctor", check=False)
    assert examined.returncode == 1
    assert "The webserver's code server has ended" in examined.stdout

    stack.start_daemon()
    replaced = "The webserver's code server has ended: it is replaced."
    wait_for(
        "the daemon's code server to have it replaced",
        lambda: replaced in stack.log.read_text(),
        120,
    )

    def is_reached() -> bool:
        output = stack.type("proctree", "doctor", check=False).stdout
        return "The webserver reaches its code server." in output

    wait_for("the new one to be reached", is_reached, 120)
