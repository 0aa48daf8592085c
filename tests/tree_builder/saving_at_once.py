"""Four processes that save the same things at the same moments, many times.

Run as a program, with Django's settings in the environment and how many times as the argument. It
prints what went wrong as JSON, and how many rows there are.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctree_dagster.models import TreeSource

PROCESSES = 4


def save_all(number: int, times: int, together: Barrier, errors: "SimpleQueue[str]") -> None:
    """Be one of the four."""
    from django.utils import timezone

    from proctree_dagster.services.process_gate import Gate
    from proctree_dagster.tree_builder import (
        ProcessTreeInstance,
        declarations,
        process_tree,
        sync,
    )
    from proctree_dagster.triggers import create_trigger, subscribe_tree_to_trigger
    from tests.app import processes

    def sync_with(name: str) -> None:
        def declare(tree: ProcessTreeInstance) -> None:
            tree.add_process("one", processes.one).add_dependent_tree("follower")
            tree.register_schedule(interval_minutes=50 + number)
            tree.create_trigger(f"of {name}", "event")
            tree.subscribe_to_trigger(f"of {name}", context={"a": number})

        declare.__module__ = "tests.app.trees"
        declarations._declared.clear()
        process_tree(f"declared {name}", description=f"by {number}")(declare)
        for error in sync.sync().errors:
            errors.put(error[:150])

    def save(name: str) -> None:
        tree = ProcessTreeInstance(name, description=f"by {number}", overwrite=True)
        tree.add_process("one", processes.one).add_dependent_tree("follower").save()

    def register(name: str) -> None:
        ProcessTreeInstance.load(name).register_schedule(interval_minutes=30 + number)

    steps: dict[str, Callable[[str], object]] = {
        "save": save,
        "link": lambda name: ProcessTreeInstance.load(name).add_sibling_tree("beside").save(),
        "register": register,
        "create_trigger": lambda name: create_trigger(name, "schedule", {"cron": "0 * * * *"}),
        "subscribe": lambda name: subscribe_tree_to_trigger(name, name, {"a": number}),
        "sync": sync_with,
        "pass": lambda name: Gate(name, name, "one").record_completion(timezone.now()),
    }
    for round_number in range(times):
        for what, step in steps.items():
            together.wait(120)
            try:
                step(f"tree {round_number}")
            except Exception as error:  # noqa: BLE001  # whatever it is, the test is about it
                errors.put(f"{what}: {type(error).__name__}: {error}"[:150])  # a pipe is short


def is_of_one_sync(source: "TreeSource") -> bool:
    """Return whether a tree and its parts are what the last of the four syncs said."""
    row = source.process_tree
    number = int(row.description.removeprefix("by "))
    [subscription] = row.subscriptions.all()
    return (
        source.said["description"] == row.description
        and row.schedule.interval_minutes == 50 + number
        and source.said["subscriptions"][subscription.trigger.name]["context"] == {"a": number}
    )


def main(times: int) -> None:
    """Make the tables and let the four begin."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from proctree_dagster import models
    from proctree_dagster.tree_builder import ProcessTreeInstance
    from tests.app import processes

    call_command("migrate", verbosity=0)
    for name in ("follower", "beside"):
        ProcessTreeInstance(name).add_process("one", processes.one).save()
    connection.close()  # nothing of it may be shared
    context = multiprocessing.get_context("fork")
    together, errors = context.Barrier(PROCESSES), context.SimpleQueue()
    workers = [
        context.Process(target=save_all, args=(number, times, together, errors))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = []
    while not errors.empty():
        found.append(errors.get())
    rows = {
        model.__name__: model._default_manager.count()
        for model in (
            *(models.ProcessTree, models.ProcessTreeSchedule, models.TreeLink),
            *(models.TreeSource, models.CodeSync),
            *(models.Trigger, models.TriggerSubscription, models.TriggerPassage),
        )
    }
    found += [
        f"{source}: half of it is of another sync: {source.said}"
        for source in models.TreeSource.objects.select_related("process_tree")
        if not is_of_one_sync(source)
    ]
    print(json.dumps({"errors": found, "rows": rows}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
