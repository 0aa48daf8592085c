import os
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

import dagster as dg
import functions


@dg.op
def call(context):
    return functions.work(context.run.tags)


@dg.config_mapping(config_schema={})
def mapping(config):
    functions.hold_the_start()
    return {}


@dg.job(config=mapping, executor_def=dg.in_process_executor)
def job():
    call()


@dg.repository
def process_trees():
    return [job]


if (FOLDER / "threads").exists():
    import threading

    threading.Thread(target=threading.Event().wait, daemon=True).start()
if (FOLDER / "connections").exists():
    import socket

    connection = socket.socketpair()
if (FOLDER / "broken").exists():
    raise RuntimeError("broken on purpose")
