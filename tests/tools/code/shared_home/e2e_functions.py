import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def note(word, **context):
    file = os.open(HERE / word, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{os.getpid()}\n".encode())
    os.close(file)


def hang(word, **context):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    note(word)
    while True:
        time.sleep(0.2)


def hold_the_lock(word, seconds):
    note(word)
    ctypes.PyDLL(None).sleep(seconds)


def sleep(word):
    note(word)
    while not (HERE / f"{word} may go").exists():
        time.sleep(0.1)


def start_programs(word, fails=False, hangs=False):
    python = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen([*python, f"plain {word}"])
    subprocess.Popen([*python, f"own group {word}"], process_group=0)
    subprocess.Popen([*python, f"detached {word}"], start_new_session=True)
    note(word)
    if fails:
        raise ValueError("on purpose")
    if hangs:
        hang(word)
