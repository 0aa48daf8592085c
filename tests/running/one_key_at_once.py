"""Many submits of one key from several processes, while others let its runs run, one by one.

Run as a program, with Django's settings in the environment, and as arguments how many submits, from
how many processes, and what becomes of conflicts. It prints as JSON what was seen: how many runs
there were, the most that were unfinished at any moment, in which order they ran, and errors.
"""

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

KEY = "the books of Harbour Lane"


def submit(count: int, on_conflict: Any, said: "SimpleQueue[str]") -> None:
    """Be one of those who submit."""
    from proctree_dagster.tree_builder import ProcessTreeManager

    for _ in range(count):
        try:
            run = ProcessTreeManager.submit_tree("books", key=KEY, on_conflict=on_conflict)
            said.put(json.dumps([run.outcome, run.run_id]))
        except Exception as error:  # noqa: BLE001  # whatever it is, the test is about it
            said.put(json.dumps(["error", f"{type(error).__name__}: {error}"[:500]]))


def run_them(done: Event, most: "SimpleQueue[int]") -> None:
    """Let each run start and end; note how many are unfinished at a time."""
    from dagster import DagsterEvent, DagsterEventType, DagsterInstance

    from proctree_dagster.orchestration.runs import family_runs, key_runs

    seen, idle = 0, 0
    with DagsterInstance.get() as instance:
        while not (done.is_set() and idle > 20):
            runs = key_runs.unfinished(instance, [KEY]).get(KEY, [])
            seen = max(seen, len(runs))
            idle = 0 if runs else idle + 1
            for run in runs:
                for kind in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS):
                    event = DagsterEvent(kind.value, run.job_name)
                    instance.report_dagster_event(event, run_id=run.run_id)
                family_runs.end(instance, run.run_id)
            if not runs:
                time.sleep(0.02)
    most.put(seen)


def sense(done: Event) -> None:
    """Pass over the outbox again and again, as the daemon's sensor does."""
    from proctree_dagster.running import tree_runs

    while not done.is_set():
        tree_runs.deliver()
        time.sleep(0.3)


def main(count: int, processes: int, on_conflict: str) -> None:
    """Make the tables and let all begin."""
    import django

    django.setup()
    from dagster import DagsterInstance
    from django.core.management import call_command
    from django.db import connections

    import proctree_dagster.orchestration.repository  # noqa: F401  # imported once for all
    from proctree_dagster.models import OutboxRun
    from proctree_dagster.orchestration.template.preload import read_migrations_once
    from proctree_dagster.services import run_keys
    from proctree_dagster.tree_builder import ProcessTreeInstance
    from tests.app import processes as functions

    call_command("migrate", verbosity=0)
    read_migrations_once()
    ProcessTreeInstance("books").add_process("only", functions.one).save()
    connections.close_all()  # nothing of them may be shared
    context = multiprocessing.get_context("fork")
    said, most, submitted, done = (
        *(context.SimpleQueue(), context.SimpleQueue()),
        *(context.Event(), context.Event()),
    )
    runner = context.Process(target=run_them, args=(submitted, most))
    sensor = context.Process(target=sense, args=(done,))
    shares = [count // processes + (number < count % processes) for number in range(processes)]
    clients = [context.Process(target=submit, args=(each, on_conflict, said)) for each in shares]
    began = time.monotonic()
    for each in (runner, sensor, *clients):
        each.start()
    outcomes = [json.loads(said.get()) for _ in range(count)]
    for each in clients:
        each.join()
    while run_keys.in_line([KEY], django.utils.timezone.now()).exists():
        time.sleep(0.2)
    submitted.set()
    runner.join()
    done.set()
    sensor.join()
    with DagsterInstance.get() as instance:
        made = [run.run_id for run in instance.get_runs()]
    rows = [str(each) for each in OutboxRun.objects.order_by("pk").values_list("run_id", flat=True)]
    print(
        json.dumps(
            {
                "errors": [what for outcome, what in outcomes if outcome == "error"],
                "requested": sum(outcome == "requested" for outcome, _ in outcomes),
                "most_unfinished": most.get(),
                "is_in_order": made[::-1] == [each for each in rows if each in made],
                "made": len(made),
                "succeeded": sum(run_id in made for run_id in rows),
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
