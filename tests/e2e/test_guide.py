"""The documentation, typed in from top to bottom by someone new, in a new project."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import TOP

pytestmark = pytest.mark.e2e

BLOCK = re.compile(r"^```(python|bash|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|yaml))( \(add\))?\n")


SHELL = """
import sys, json, django
django.setup()
namespace = {}
for line in sys.stdin:
    exec(compile(json.loads(line), 'typed', 'exec'), namespace)
    print('\\x00', flush=True)
"""


class Newcomer:
    """Someone who types what the pages say, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            key: value
            for key, value in os.environ.items()
            if key not in ("DJANGO_SETTINGS_MODULE", "DAGSTER_HOME", "PYTHONPATH")
        }
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.shell: subprocess.Popen[str] | None = None

    def follow(self, page: str) -> str:
        """Do what a page says: make its files, type its commands and its Python."""
        printed = ""
        for language, block in BLOCK.findall((TOP / "docs" / page).read_text()):
            file = FILE.match(block)
            if file:
                self.write(file[1], block[file.end() :], add=bool(file[2]))
            elif language == "python":
                printed += self.python(block)
            else:
                for command in block.strip().splitlines():
                    if not command.startswith("pip install"):
                        printed += self.type(command)
        return printed

    def write(self, name: str, content: str, *, add: bool) -> None:
        """Make a file, or add to it; a shell that is open would not see it."""
        self.close_shell()
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() + "\n\n" if add else "") + content)

    def type(self, command: str) -> str:
        """Type a command."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def python(self, block: str) -> str:
        """Type Python into the shell that is open, or into a new one."""
        if self.shell is None:
            self.shell = subprocess.Popen(
                [sys.executable, "-c", SHELL],
                cwd=self.folder,
                env={**self.env, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(json.dumps(block) + "\n")
        self.shell.stdin.flush()
        printed = ""
        for line in self.shell.stdout:
            if line == "\x00\n":
                return printed
            printed += line
        raise AssertionError(f"The shell ended on\n{block}")

    def close_shell(self) -> None:
        """Leave the shell."""
        if self.shell is not None:
            self.shell.communicate(timeout=60)
            self.shell = None


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    newcomer.type("django-admin startproject mysite .")
    newcomer.type("python manage.py startapp bookkeeping")
    yield newcomer
    newcomer.close_shell()


def test_the_guide_does_what_it_says_from_top_to_bottom(newcomer: Newcomer) -> None:
    newcomer.follow("install.md")
    printed = newcomer.follow("guide.md")

    assert "Scheduled! Next run: 20" in printed
    commands = newcomer.folder / "bookkeeping" / "management" / "commands"
    assert {path.name for path in commands.glob("*.py")} == {
        "__init__.py",
        "my_scheduled_tree.py",
        "run_my_tree.py",
        "hourly_journals_sync.py",
    }
    assert (newcomer.folder / "some" / "other" / "commands" / "my_scheduled_tree.py").is_file()
    assert 'step1: "hello, tenant 123"' in printed
    assert 'step1: "hello, tenant 456"' in printed  # the schedule's default context
    # The model instance in the context, fetched again.
    assert 'sync: {"status": "success", "organisation": "Quiver Tree Coffee"}' in printed
    assert "True {'step1': 'hello, tenant 123'}" in printed
    assert "Queued run" in printed

    listed = newcomer.type(
        "DAGSTER_HOME=$PWD/dagster_home dagster job list -w workspace.yaml 2>/dev/null"
    )
    assert {line for line in listed.splitlines() if line.startswith("Job: ")} == {
        "Job: hourly_journals_sync",
        "Job: my_scheduled_tree",
    }
    newcomer.type("DAGSTER_HOME=$PWD/dagster_home dagster definitions validate -w workspace.yaml")
