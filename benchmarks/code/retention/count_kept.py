"""Print what is left of the runs that were to be kept, and of all."""

import json
import os
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, RunsFilter

from proctree_dagster.orchestration import dagster_internals as internals

kept = json.loads(Path(os.environ["BENCH_KEPT"]).read_text())
instance = DagsterInstance.get()
storage: Any = instance.event_log_storage
folder = Path(instance.storage_directory())
found = {"runs": 0, "tagged": 0, "events": 0, "logs": 0, "results": 0}
for begin in range(0, len(kept), 200):
    for run in instance.get_runs(RunsFilter(run_ids=kept[begin : begin + 200])):
        found["runs"] += 1
        found["tagged"] += len(run.tags) > 3
for run_id in kept:
    if isinstance(storage, internals.SqliteEventLogStorage):
        found["logs"] += Path(storage.path_for_shard(run_id)).stat().st_size > 4096
    else:
        found["logs"] += len(storage.get_logs_for_run(run_id)) > 10
    with storage.index_connection() as connection:
        table = internals.SqlEventLogStorageTable
        rows = connection.execute(table.select().where(table.c.run_id == run_id)).fetchall()
    found["events"] += len(rows) >= 2
    found["results"] += (folder / run_id).is_dir()
print(json.dumps({**found, "all": len(instance.get_run_ids(RunsFilter(job_name="bench")))}))
