import json
import os
import subprocess
import threading
import time
from pathlib import Path

import psutil

FOLDER = Path(os.environ["TEST_FOLDER"])
WORD = "before"
HELD: list[bytes] = []


def say():
    run_id = os.environ["PROCTREE_RUN_ID"]
    said = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "folder": str(Path.cwd()),
        "left": os.environ.get("LEFT_BY_A_RUN"),
        "word": WORD,
        "memory": psutil.Process().memory_info().rss // 2**20,
    }
    part = FOLDER / f"{run_id}.part"
    part.write_text(json.dumps(said))
    part.replace(FOLDER / run_id)


def works():
    say()
    os.environ["LEFT_BY_A_RUN"] = "x"
    os.chdir("/")


def also():
    pass


def waits():
    say()
    go = FOLDER / f"{os.environ['PROCTREE_RUN_ID']}.go"
    while not go.exists():
        time.sleep(0.05)


def fails():
    say()
    raise ValueError("on purpose")


def leaves_a_thread():
    say()
    threading.Thread(target=time.sleep, args=(3,), name="late").start()


def leaves_a_program():
    say()
    subprocess.Popen(["sleep", "3"])


def needs_memory():
    say()
    HELD.append(os.urandom(2**20) * 100)
