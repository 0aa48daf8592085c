import os
import subprocess
from pathlib import Path

from proctree_dagster.support.os_processes import Identity, State

processes = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
hidden, ended = [Identity.of(each.pid) for each in processes]
processes[1].kill()
processes[1].wait()
assert hidden.state is State.RUNNING
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
assert not Path(f"/proc/{hidden.pid}/stat").exists()
assert [hidden.state, ended.state] == [State.UNKNOWN, State.GONE]
