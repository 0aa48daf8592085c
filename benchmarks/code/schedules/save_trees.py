"""Save as many trees as the environment says, all of them due at the time that it says."""

import datetime as dt
import os

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule

due = dt.datetime.fromisoformat(os.environ["BENCH_DUE"])
for number in range(int(os.environ["BENCH_COUNT"])):
    tree = ProcessTree.objects.create(
        name=f"tree_{number}",
        processes=[{"name": "only", "func": "example.ledger.processes:fetch_journals"}],
    )
    ProcessTreeSchedule.objects.create(
        process_tree=tree, interval_minutes=1440, start_time=due.time(), timezone="UTC"
    )
