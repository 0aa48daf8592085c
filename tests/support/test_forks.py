"""A child that a function forks ends where it would leave the function, and writes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

FUNCTIONS = """
import asyncio, multiprocessing, os, sys, threading, time

def note(word):
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word}\\n".encode())
    os.close(file)

def forked(ending):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ending()

def leaves(code):
    sys.exit(code)

def exits():
    return forked(lambda: leaves(7))

def exits_with_a_message():
    return forked(lambda: leaves("so long"))

def raises():
    return forked(lambda: 1 / 0)

def returns():
    return forked(lambda: "the child's result")

def yields():
    child = os.fork()
    yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else "the child's"

async def awaits():
    await asyncio.sleep(0)
    return forked(lambda: leaves(7))

def in_time():
    return forked(lambda: leaves(7))

def becomes_a_daemon():
    def grandchild():
        if os.fork():
            os._exit(0)
        os.setsid()
        threading.Thread(target=lambda: (time.sleep(0.3), note("daemon"))).start()
    return forked(grandchild)

def leaves_by_itself():
    return forked(lambda: os._exit(9))

def child_of_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=note, args=("child",))
    process.start()
    process.join()
    return process.exitcode

def last(**results):
    note("last")
    return "done"
"""

PROGRAM = """
import os, sys
sys.path.insert(0, {folder!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
from django.conf import settings
settings.DATABASES["default"]["NAME"] = {folder!r} + "/db.sqlite3"
settings.DATABASES["default"]["OPTIONS"] = {{"timeout": 30}}
settings.PROCTREE = {{"DAGSTER_HOME": {folder!r}, "FUNCTION_MODULES": ["forking"]}}
django.setup()
from django.core.management import call_command
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
import forking
call_command("migrate", run_syncdb=True, verbosity=0)
names = sorted({names!r})
tree = ProcessTreeInstance("tree")
for name in names:
    tree.add_process(name, getattr(forking, name), timeout=60 if name == "in_time" else None)
tree.add_process("last", forking.last, names).save()
answer = ProcessTreeManager.execute_tree("tree")
print(answer["success"], answer["errors"], [answer["results"][name] for name in names])
"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> tuple[str, str, str]:
    """Run these functions as one tree; return what is printed, said, and noted."""
    (tmp_path / "forking.py").write_text(FUNCTIONS)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    notes = tmp_path / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path), names=names)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr, notes.read_text()


def test_a_child_that_comes_out_of_its_function_ends_with_the_code_of_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("exits", "exits_with_a_message", "in_time", "raises", "returns", "yields", "awaits")
    printed, said, noted = run(tmp_path, monkeypatch, *names)
    assert printed == "True {} [7, 7, 1, 7, 1, 0, [0]]", "of awaits, exits, … in their order"
    assert "so long" in said
    assert "ZeroDivisionError" in said
    assert noted == "last\n", "what depends on them ran once"


def test_a_child_in_the_only_thread_of_a_run_is_contained_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, _, noted = run(tmp_path, monkeypatch, "raises")
    assert (printed, noted) == ("True {} [1]", "last\n")


def test_children_that_are_meant_to_live_on_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("becomes_a_daemon", "child_of_multiprocessing", "leaves_by_itself")
    printed, _, noted = run(tmp_path, monkeypatch, *names)
    assert printed == "True {} [0, 0, 9]"
    assert sorted(noted.split()) == ["child", "daemon", "last"]
