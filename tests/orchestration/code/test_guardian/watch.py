"""Watch a child until it is killed: ``python -c … JSON``, with a database, beats and an order."""

import json
import os
import subprocess
import sys
import threading

from proctree_dagster.orchestration import guardian
from proctree_dagster.support.os_processes import Identity, State

given = json.loads(sys.argv[1])
child = subprocess.Popen(["sleep", "600"])
charge = guardian.Charge(Identity.of(child.pid), "run", 1, 60, given["beats"], 0)
guardian._set_django_up(given["database"], charge)
orders, write_orders = os.pipe()
os.write(write_orders, given["order"].encode())
threading.Timer(1, child.kill).start()
guardian._watch(charge, orders)
assert charge.worker.state is State.GONE, "it has ended before its worker"
