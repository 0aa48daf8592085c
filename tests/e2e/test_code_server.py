"""A webserver whose code server has died is noticed, and gets another."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools.stack import Stack, wait_for

pytestmark = pytest.mark.e2e


FIRST = """
tree = ProcessTreeInstance("a_tree_with_a_required_key")
tree.add_process("fetch", func="example.ledger.processes:fetch_journals").save()
"""
"""The job that the code server is asked for: without the key the webserver answers by itself."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack")
    stack.migrate()
    stack.shell(FIRST, silently=True)
    stack.set_up_example()
    try:
        yield stack
    finally:
        stack.stop()


def code_server_of(host: psutil.Process) -> psutil.Process:
    (found,) = [
        child
        for child in host.children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "grpc" in child.cmdline()
    ]
    return found


def test_a_webserver_whose_code_server_was_killed_launches_again_and_the_doctor_says_why_not(
    stack: Stack,
) -> None:
    stack.start_webserver()
    webserver = psutil.Process(stack.processes[0].pid)
    code_server = code_server_of(webserver)
    assert "The webserver reaches its code server." in stack.type("proctree", "doctor").stdout
    code_server.kill()
    code_server.wait(30)
    examined = stack.type("proctree", "doctor", check=False)
    assert examined.returncode == 1
    assert "The webserver's code server has ended" in examined.stdout

    daemon = psutil.Process(stack.start_daemon().pid)
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

    # The daemon's own, which it keeps, does so again.
    kept = code_server_of(daemon)
    code_server_of(webserver).kill()
    wait_for("it to be replaced again", lambda: stack.log.read_text().count(replaced) == 2, 150)
    wait_for("the newest one to be reached", is_reached, 120)
    assert code_server_of(daemon) == kept
