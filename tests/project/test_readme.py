"""What the README says can be pasted into the shell of a clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools import TOP, python_path


def test_what_can_be_pasted_into_the_shell_of_a_clone_works(tmp_path: Path) -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    [pasted] = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    home = tmp_path / "example" / "dagster_home"
    shutil.copytree(TOP / "example", tmp_path / "example", ignore=_runs)
    for name in ("manage.py", "definitions"):
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
        copy(TOP / name, tmp_path / name)
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "DAGSTER_HOME": str(home),
        "EXAMPLE_DATABASE": str(tmp_path / "db.sqlite3"),
        "EXAMPLE_DAGSTER_URL": "",
        "PYTHONPATH": python_path(TOP),
    }

    def manage(*args: str, typed: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *args],
            cwd=tmp_path,
            env=env,
            input=typed,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    manage("migrate", "-v0")
    manage("setup_example")
    printed = manage("shell", typed=pasted)
    assert "'balance': 'completed'" in printed
    command = tmp_path / "example" / "ledger" / "management" / "commands" / "trial_balance.py"
    assert command.is_file()
    assert "completed balance" in manage("trial_balance")


def _runs(folder: str, names: list[str]) -> list[str]:
    """Leave out what runs of a developer's own example have left."""
    return [
        name for name in names if Path(folder).name == "dagster_home" and name != "dagster.yaml"
    ]
