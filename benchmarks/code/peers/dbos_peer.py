"""DBOS: ``worker`` and ``client`` with its queue between them, or both in one process."""

import os
import sys
import threading

import bench_functions as functions
from bench_client import serve
from dbos import DBOS, DBOSClient

URL = os.environ["BENCH_URL"]
DBOS(
    config={
        "name": "bench",
        "system_database_url": URL,
        "application_version": "1",
        "enable_otlp": False,
    }
)
first, second, third, last = (
    DBOS.step()(getattr(functions, name)) for name in ("first", "second", "third", "last")
)


@DBOS.workflow()
def chain(token):
    return last(token, third(second(first(token))))


def worker():
    DBOS.launch()
    DBOS.register_queue("bench")
    print("ready", flush=True)
    threading.Event().wait()


def client():
    enqueues = DBOSClient(system_database_url=URL)
    options = {"queue_name": "bench", "workflow_name": chain.__qualname__}
    serve(lambda token: enqueues.enqueue(options, token))


def both():
    DBOS.launch()
    serve(chain)


{"worker": worker, "client": client, "both": both}[sys.argv[1]]()
