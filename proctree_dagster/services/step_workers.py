"""The workers of steps that run outside the run's own process, such as Celery's workers.

A step is taken once: a broker may deliver a task twice, and the second worker calls no function.
While a worker executes a step it gives signs of life, by which the run's own process knows whether
an answer can still come.
"""

import datetime as dt

from django.db import models, router, transaction
from django.db.models import F
from django.utils import timezone

from ..models import StepWorker

RETENTION = dt.timedelta(days=30)
"""How long the rows of a killed run are retained; every other run deletes its own."""


def take(run_id: str, step_key: str, attempt: int, worker: str) -> StepWorker | None:
    """Take a step for a process; return ``None`` if another process has or had it.

    Parameters
    ----------
    run_id:
        The run.
    step_key:
        Its step.
    attempt:
        The number of earlier tries.
    worker:
        The process, as text.
    """
    with transaction.atomic(using=router.db_for_write(StepWorker)):
        row, created = StepWorker.objects.get_or_create(
            run_id=run_id, step_key=step_key, attempt=attempt, defaults={"worker": worker}
        )
    return row if created else None


def taken(run_id: str, step_key: str, attempt: int) -> StepWorker | None:
    """Return the row of the process that has taken a step (see ``take``)."""
    found = StepWorker.objects.filter(run_id=run_id, step_key=step_key, attempt=attempt)
    return found.first()


def beat(row: StepWorker) -> None:
    """Record a sign of life."""
    StepWorker.objects.filter(pk=row.pk).update(beats=F("beats") + 1)


def end(row: StepWorker) -> None:
    """Record that the step has ended, successfully or not."""
    StepWorker.objects.filter(pk=row.pk).update(ended_at=timezone.now())


def of_run(run_id: str) -> list[StepWorker]:
    """Return the workers that have taken steps of a run, in the order of taking."""
    return list(StepWorker.objects.filter(run_id=run_id).order_by("pk"))


def forget(run_id: str) -> None:
    """Delete the rows of an ended run, and all rows older than the retention period."""
    StepWorker.objects.filter(
        models.Q(run_id=run_id) | models.Q(started_at__lt=timezone.now() - RETENTION)
    ).delete()
