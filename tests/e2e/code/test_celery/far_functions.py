import json
import os
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def where():
    from celery import current_task

    return {"pid": os.getpid(), "worker": current_task.request.hostname.split("@")[0]}


def noted(name):
    """Count a call in a file, from whichever process."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len((FOLDER / name).read_text().splitlines())


def meet(name, other):
    (FOLDER / f"met.{name}").touch()
    for _ in range(1200):
        if (FOLDER / f"met.{other}").exists():
            return where()
        time.sleep(0.05)
    raise TimeoutError(f"{other} did not come")


def first(organisation, **context):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"name": organisation.name, "model": type(organisation).__name__}


def left(first):
    return {"first": first, **meet("left", "right")}


def right(first):
    return {"first": first, **meet("right", "left")}


def last(left, right, **context):
    return {"from": sorted([left["worker"], right["worker"]]), "pid": os.getpid()}


def fails(**context):
    raise ValueError("on purpose")


def after(**context):
    return sorted(context)


def fails_until_mended():
    noted("unmended")
    if not (FOLDER / "mended").exists():
        raise ValueError("not mended yet")
    return "mended"


def fails_twice():
    if noted("twice") < 3:
        raise ValueError("try again")
    return "third time"


def slow():
    time.sleep(300)


def cached(**context):
    return noted("cached")


def counts():
    return {"count": "7", "total": "1.50"}


def endless(name, **context):
    (FOLDER / f"{name}.json").write_text(json.dumps(where()))
    try:
        while True:
            time.sleep(0.05)
    finally:
        (FOLDER / f"{name}.cleaned").touch()


def stubborn(**context):
    (FOLDER / "stubborn.json").write_text(json.dumps(where()))
    time.sleep(300)  # in C code, where nothing can be raised


def once():
    noted("once")
    for _ in range(1200):
        if (FOLDER / "go").exists():
            return "done"
        time.sleep(0.05)


def scheduled(**context):
    return noted("scheduled")
