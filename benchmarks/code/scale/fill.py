"""Save as many trees as the environment says, each with four processes and a schedule."""

import datetime as dt
import os

from django.utils import timezone

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule

functions = "bench_functions:{}".format
processes = [
    {"name": "first", "func": functions("first")},
    {"name": "left", "func": functions("left"), "dependencies": ["first"]},
    {"name": "right", "func": functions("right"), "dependencies": ["first"]},
    {"name": "last", "func": functions("last"), "dependencies": ["left", "right"]},
]
names = ["bench", *(f"tree_{number:05}" for number in range(1, int(os.environ["BENCH_TREES"])))]
trees = ProcessTree.objects.bulk_create(
    [ProcessTree(name=name, job_name=name, processes=processes) for name in names], 500
)
schedules = []
for number, tree in enumerate(trees):
    schedules.append(
        ProcessTreeSchedule(
            process_tree=tree,
            interval_minutes=1440,
            context={"token": str(number)},
            start_time=(timezone.now() - dt.timedelta(hours=1)).time(),
            timezone="UTC",
        )
    )
    schedules[-1].align(timezone.now())
ProcessTreeSchedule.objects.bulk_create(schedules, 500)
