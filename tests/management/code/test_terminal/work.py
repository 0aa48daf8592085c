"""What the trees of a terminal do."""

import time

from proctree_dagster.process import progress


def count():
    for number in progress.track(range(3), "invoices"):
        time.sleep(0.4 * number)
    return 3


def long():
    return ["x" * 20] * 100


def up_to_date():
    return False


def fail(**context):
    raise ValueError("the bank is away")


def echo(**context):
    return 1
