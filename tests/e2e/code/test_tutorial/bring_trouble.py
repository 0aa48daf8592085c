import datetime as dt

from django.utils import timezone

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.orchestration.runs import opening

ProcessTree.objects.exclude(name="takings").delete()
ProcessTree.objects.create(
    name="renamed",
    processes=[
        {"name": "sales", "func": "books.processes:count_the_sales", "dependencies": []},
    ],
)
ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(hours=5))
with opening.open_instance(persistent=True) as instance:
    instance.wipe_daemon_heartbeats()
