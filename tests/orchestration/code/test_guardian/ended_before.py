"""Let a guardian come after its worker has ended; print whether its program lives: ORDERS."""

import os
import subprocess
import sys

import psutil

from proctree_dagster.orchestration import guardian
from proctree_dagster.support.os_processes import Identity

worker = subprocess.Popen(
    ["sh", "-c", "sleep 600 & echo $!; read end"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    start_new_session=True,
)
assert worker.stdin is not None
assert worker.stdout is not None
program = psutil.Process(int(worker.stdout.readline()))
charge = guardian.Charge(Identity.of(worker.pid), "run", 1, 60, 5, worker.pid)
guardian._set_django_up({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, charge)
orders, write_orders = os.pipe()
os.write(write_orders, sys.argv[1].encode())
worker.stdin.close()
worker.wait()
guardian._watch(charge, orders)
lives = program.is_running() and program.status() != psutil.STATUS_ZOMBIE
print("lives" if lives else "ended")
program.kill()
