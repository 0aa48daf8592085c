import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
AT_IMPORT = os.getpid()
IN_A_TEMPLATE = "template" in sys.argv[0]  # which may be a fork that /proc calls something else


def note(word):
    file = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word}\n".encode())
    os.close(file)


@atexit.register
def at_the_end():
    if os.getpid() != AT_IMPORT:
        note("twice")
    elif not IN_A_TEMPLATE:
        note("atexit of the module")  # not when a template ends, which another test has left


def late(word):
    time.sleep(1)
    note(word)


def leaves_much():
    threading.Thread(target=late, args=("thread",)).start()
    ThreadPoolExecutor(1).submit(late, "pool")
    multiprocessing.get_context("fork").Process(target=late, args=("child",)).start()
    atexit.register(note, "atexit")


def also():
    pass


def hangs():
    note(os.getpid())
    threading.Thread(target=threading.Event().wait, name="endless").start()


def forks():
    if os.fork() == 0:
        raise RuntimeError("in the child")
    os.wait()


def kills_its_group():
    os.killpg(os.getpgrp(), signal.SIGKILL)


def exits_at_once():
    os._exit(3)


def kills_the_template():
    if os.getpid() != AT_IMPORT:
        os.kill(AT_IMPORT, signal.SIGKILL)
        note("killed")


def closes_everything():
    os.closerange(0, 1000)


def becomes_nobody():
    os.setuid(65534)


def counts_threads():
    import numpy

    numpy.ones((500, 500)) @ numpy.ones((500, 500))
    note(os.environ.get("OPENBLAS_NUM_THREADS"))
