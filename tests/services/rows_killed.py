"""Record a run for each of many rows at a due time, killed at random moments, and count the runs.

Run as a program, with Django's settings in the environment, and as arguments how many rows, how
many kills, and a seed. It prints as JSON what was seen.
"""

import datetime as dt
import json
import os
import random
import signal
import sys
import time
from typing import Any

DUE = dt.datetime(2026, 6, 10, 9, 0, tzinfo=dt.UTC)


class NoHistory:
    """Dagster's history without a run."""

    def of_claim(self, due: dt.datetime) -> Any:
        return "none"

    def of_run(self, run_id: str, worker: str) -> Any:
        raise AssertionError


def record() -> None:
    """Claim the due time, or take the open claim up again, and record the runs."""
    from proctree_dagster.models import ProcessTreeSchedule
    from proctree_dagster.services import due_time_claims, row_runs

    ProcessTreeSchedule.objects.exclude(claim=None).update(claimed_at=None)  # as after a minute
    pk = ProcessTreeSchedule.objects.values_list("pk", flat=True).get()
    decision = due_time_claims.request(pk, DUE, NoHistory())
    if isinstance(decision, due_time_claims.Due):
        row_runs.request(decision, DUE)


def deliver() -> None:
    from proctree_dagster.running import tree_runs

    tree_runs.deliver()


def killed_after(seconds: float, work: Any) -> bool:
    """Do some work in a child that is killed after a while; return whether it was."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(count: int, kills: int, seed: int) -> None:
    """Make the rows, and kill whoever records and delivers their runs."""
    import django

    django.setup()
    from dagster import DagsterInstance
    from django.core.management import call_command
    from django.db import connections

    import proctree_dagster.orchestration.repository  # noqa: F401  # imported once for all
    from example.ledger.models import Organisation
    from proctree_dagster.models import OutboxRun, ProcessTreeSchedule
    from proctree_dagster.orchestration.template.preload import read_migrations_once
    from proctree_dagster.tree_builder import ProcessTreeInstance
    from tests.app import processes

    call_command("migrate", verbosity=0)
    read_migrations_once()
    tree = ProcessTreeInstance("books").add_process("only", processes.echo)
    tree.save()
    tree.register_schedule(cron="0 9 * * *", for_each="ledger.Organisation")
    Organisation.objects.bulk_create(
        Organisation(name=str(each), currency="ZAR") for each in range(count)
    )
    ProcessTreeSchedule.objects.update(next_run=DUE)
    chance = random.Random(seed)  # for moments, not for secrets
    seen: dict[str, Any] = {"killed_recording": 0, "partly": 0}
    for _ in range(kills):
        connections.close_all()
        seen["killed_recording"] += killed_after(chance.uniform(0.0, 0.02 + count / 2500), record)
        if OutboxRun.objects.exists():
            seen["partly"] += OutboxRun.objects.count() != count
            OutboxRun.objects.all().delete()  # and so again, from an open claim
            ProcessTreeSchedule.objects.update(claim=DUE)
    began = time.monotonic()
    record()
    record()  # a second process
    seen["seconds_to_record"] = round(time.monotonic() - began, 2)
    seen["recorded"] = OutboxRun.objects.count()
    seen["killed_delivering"] = 0
    for _ in range(kills):
        connections.close_all()
        seen["killed_delivering"] += killed_after(chance.uniform(0.1, count / 100), deliver)
        OutboxRun.objects.update(leased_until=None)  # as after a minute
    began = time.monotonic()
    deliver()
    deliver()
    seen["seconds_to_deliver_the_rest"] = round(time.monotonic() - began, 1)
    with DagsterInstance.get() as instance:
        runs = instance.get_runs()
    seen["runs"] = len(runs)
    seen["organisations"] = len({run.tags["context/organisation"] for run in runs})
    seen["queued"] = sum(run.status.value == "QUEUED" for run in runs)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
