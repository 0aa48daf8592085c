"""Sixteen processes that fire a trigger a hundred times between them, and poll others at once.

Run as a program, with the names of the trees that subscribe to what is fired. It prints as JSON how
often each trigger has fired, and the runs that were written down.
"""

import json
import sys
import time

from tests.e2e.sixteen import fork_sixteen

FIRES = 100
POLLED = ("schedule", "custom", "outdated_check")


def prepare(subscribers: list[str]) -> None:
    """Make the tables, the triggers (those that are polled are to fire) and the trees."""
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from proctree_dagster.models import Trigger
    from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
    from proctree_dagster.triggers import create_trigger
    from tests.app import processes

    call_command("migrate", verbosity=0)
    age = {"model": "auth.User", "date_field": "date_joined", "max_age_minutes": 60}
    create_trigger("event", "event")
    create_trigger("schedule", "schedule", {"interval_minutes": 525600})
    create_trigger("custom", "custom", {"function": "tests.app.processes:out_of_date"})
    create_trigger("outdated_check", "outdated_check", age)
    Trigger.objects.filter(name="schedule").update(next_due=timezone.now())
    for name in (*POLLED, *subscribers):
        tree = ProcessTreeInstance(name).add_process("one", func=processes.one)
        tree.subscribe_to_trigger(name if name in POLLED else "event").save()
    ProcessTreeManager.execute_tree("schedule")  # what it imports is imported once for all
    connection.close()  # nothing of it may be shared by the sixteen


def fire_and_poll(number: int, begins: float) -> None:
    """Be one of the sixteen."""
    from django.utils import timezone

    from proctree_dagster.models import Trigger
    from proctree_dagster.services import trigger_firing
    from proctree_dagster.triggers import fire_trigger

    time.sleep(max(0.0, begins - time.time()))
    for trigger in Trigger.objects.exclude(name="event"):
        trigger_firing.poll(trigger.pk, timezone.now())
    for fire in range(number, FIRES, 16):
        fire_trigger("event", {"fire": fire})


def report() -> None:
    """Deliver what the sixteen have left to each other, and print what there is.

    A delivery that failed (so many are at it at once) is tried again when its lease ends.
    """
    from proctree_dagster.models import OutboxRun, Trigger
    from proctree_dagster.running import tree_runs

    deadline = time.monotonic() + 100
    while tree_runs.deliver() or OutboxRun.objects.filter(state="waiting").exists():
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    fields = ("process_tree__name", "context", "run_id", "state")
    report = {
        "counts": dict(Trigger.objects.values_list("name", "fire_count")),
        "runs": list(OutboxRun.objects.values_list(*fields)),
    }
    print(json.dumps(report, default=str))


if __name__ == "__main__":
    import django

    django.setup()
    prepare(sys.argv[1:])
    begins = time.time() + 3  # by then all are there
    failed = fork_sixteen(lambda number: fire_and_poll(number, begins))
    report()
    sys.exit(failed)
