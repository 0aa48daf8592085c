"""Processes of the operating system, whatever they and the machine are called."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from proctree_dagster.support import os_processes
from proctree_dagster.support.os_processes import Identity, State

SLEEP = shutil.which("sleep")


@pytest.mark.skipif(SLEEP is None, reason="there is no program to copy")
def test_a_program_whose_name_linux_cuts_in_the_middle_of_a_character_is_found_and_ended(
    tmp_path: Path,
) -> None:
    program = tmp_path / "umsatzsteuer-für"  # the kernel keeps fifteen bytes of it
    shutil.copy(str(SLEEP), program)
    with subprocess.Popen([str(program), "60"], start_new_session=True) as child:
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.exists():
            with pytest.raises(UnicodeDecodeError):
                stat.read_bytes().decode()
        found = Identity.of(child.pid)
        assert found.state is State.RUNNING
        worker = Identity.of_this_process()
        programs = os_processes.programs_of(worker, "no run")
        assert child.pid in {each.pid for each in (*programs.in_session, *programs.detached)}
        assert found.send(signal.SIGKILL)
        child.wait()
    assert os_processes.started(found.pid) is None


def test_a_machine_that_is_renamed_meanwhile_still_knows_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Identity.of_this_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert before.state is State.RUNNING
    assert Identity.of(os.getpid()) == before
