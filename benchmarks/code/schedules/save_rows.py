"""Save one tree, whose schedule has a run for each of as many rows as the environment says."""

import datetime as dt
import os

from example.ledger.models import Organisation
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule

due = dt.datetime.fromisoformat(os.environ["BENCH_DUE"])
count = int(os.environ["BENCH_COUNT"])
Organisation.objects.bulk_create(
    Organisation(name=f"organisation {number}", currency="ZAR") for number in range(count)
)
tree = ProcessTree.objects.create(
    name="books",
    processes=[{"name": "only", "func": "example.ledger.processes:fetch_journals"}],
)
ProcessTreeSchedule.objects.create(
    process_tree=tree,
    interval_minutes=1440,
    start_time=due.time(),
    timezone="UTC",
    for_each={"model": "ledger.Organisation"},
)
