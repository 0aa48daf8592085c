"""Copy one run as often as the environment says, so that most copies ended long ago.

Each tenth copy ended yesterday, and is to be kept.
"""

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster import DagsterInstance

from proctree_dagster.orchestration import dagster_internals as internals
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager

RUNS, EVENTS = int(os.environ["BENCH_RUNS"]), int(os.environ["BENCH_EVENTS"])
AT_ONCE = 500
DAY = 86400.0

tree = ProcessTreeInstance("bench", overwrite=True)
tree.add_process("only", func="bench_functions:talk").save()
template = ProcessTreeManager.execute_tree("bench", context={"lines": 0})["run_id"]
instance = DagsterInstance.get()
few = len(instance.all_logs(template))
template = ProcessTreeManager.execute_tree("bench", context={"lines": EVENTS - few})["run_id"]
runs, tags = internals.RunsTable, internals.RunTagsTable
events = internals.SqlEventLogStorageTable
run_storage: Any = instance.run_storage
event_storage: Any = instance.event_log_storage
is_sharded = isinstance(event_storage, internals.SqliteEventLogStorage)
folder = Path(instance.storage_directory())


def rows(connect, table):
    query = sqlalchemy.select(table).where(table.c.run_id == template).order_by(table.c.id)
    with connect() as connection:
        found = [dict(row) for row in connection.execute(query).mappings()]
    return [{name: value for name, value in row.items() if name != "id"} for row in found]


def of_copy(row, run_id):
    return {
        name: value.replace(template, run_id) if isinstance(value, str) else value
        for name, value in row.items()
    }


def insert(connect, table, copied):
    with connect() as connection:
        connection.execute(table.insert(), copied)


sources = [
    (run_storage.connect, runs, rows(run_storage.connect, runs)),
    (run_storage.connect, tags, rows(run_storage.connect, tags)),
    (event_storage.index_connection, events, rows(event_storage.index_connection, events)),
]
kept, now = [], time.time()
for begin in range(0, RUNS, AT_ONCE):
    ids = [str(uuid.uuid4()) for _ in range(min(AT_ONCE, RUNS - begin))]
    for connect, table, of_template in sources:
        copied = [of_copy(row, run_id) for run_id in ids for row in of_template]
        if table is runs:
            for number, row in enumerate(copied):
                row["end_time"] = now - (1 if number % 10 == 0 else 100) * DAY
        for first in range(0, len(copied), 5 * AT_ONCE):
            insert(connect, table, copied[first : first + 5 * AT_ONCE])
    for run_id in ids:
        if is_sharded:
            shard = event_storage.path_for_shard(run_id)
            shutil.copyfile(event_storage.path_for_shard(template), shard)
        shutil.copytree(folder / template, folder / run_id)
    kept += ids[::10]
print(json.dumps({"kept": kept, "events": len(instance.all_logs(template))}))
