"""Trees that are due, run in processes of their own by ``tests/running/test_side_by_side.py``."""

import datetime as dt
import json
import sys

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup
from django.utils import timezone  # noqa: E402

from proctree_dagster.models import ProcessTreeSchedule  # noqa: E402
from proctree_dagster.tasks import check_and_run_scheduled_tasks  # noqa: E402
from proctree_dagster.tree_builder import ProcessTreeInstance  # noqa: E402
from tests.beside.work import work  # noqa: E402


def make_due(trees: dict[str, list[str]]) -> None:
    """Save trees that are due, the first one for the longest time."""
    now = timezone.now()
    for minutes, (name, waits_for) in zip(range(60, 0, -1), trees.items(), strict=False):
        tree = ProcessTreeInstance(name).add_process("only", func=work)
        tree.save()
        schedule = tree.register_schedule(context={"name": name, "waits_for": waits_for})
        due = now - dt.timedelta(minutes=minutes)
        ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(next_run=due)


if __name__ == "__main__":
    if sys.argv[1] == "migrate":
        call_command("migrate", verbosity=0)
        make_due(json.loads(sys.argv[2]))
    else:
        results = check_and_run_scheduled_tasks()
        print(json.dumps({name: each["success"] for name, each in results.items()}))
