import datetime as dt

from dagster import DagsterInstance, build_schedule_context
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from proctree_dagster.models import ProcessTreeSchedule
from proctree_dagster.orchestration.repository import build_repository

repository = build_repository()
instance = DagsterInstance.get()
counts = []
for next_run in (timezone.now() + dt.timedelta(hours=1), None):
    ProcessTreeSchedule.objects.update(next_run=next_run, claim=None)
    with CaptureQueriesContext(connection) as queries:
        schedule = repository.get_schedule_def("tree_0_schedule")
        now = timezone.now()
        schedule.evaluate_tick(build_schedule_context(instance, scheduled_execution_time=now))
    counts.append(len([q for q in queries if "proctree_dagster" in q["sql"]]))
print(*counts)
