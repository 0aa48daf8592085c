"""Save as the interpreter ends: ``python -c … URL``."""

import atexit
import sys
import threading

import django

django.setup()

from proctree_dagster.services import webserver


def save():
    webserver._reloader.request(sys.argv[1])
    print("saved", flush=True)


def work():
    threading.main_thread().join()
    save()


atexit.register(save)
threading.Thread(target=work).start()
