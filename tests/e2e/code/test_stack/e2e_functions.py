import time
from pathlib import Path


def slow():
    time.sleep(60)


def quick(**context):
    return context


def waits(path):
    Path(f"{path}.started").touch()
    while not Path(path).exists():
        time.sleep(0.2)


def fails(**context):
    raise ValueError("on purpose")


def naps(number, customer=None):
    time.sleep(1)
    return number
