import logging
import sys
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


def says_its_secret(token):
    print(token)
    print(token, file=sys.stderr)
    logging.getLogger(__name__).warning("The token is %s.", token)
    return {"header": f"Bearer {token}"}


def fails_with_its_secret(says, token):
    raise ValueError(f"{token} was refused, as {says['header']!r}")


def naps(number, customer=None):
    time.sleep(1)
    return number
