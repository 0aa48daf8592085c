"""Who executes the steps of a run that leave the run's own process: Celery's workers, for one.

A step is taken once: a broker may deliver a task twice, and whoever comes second calls no function.
As long as a step is executed its process gives signs of life, by which the run's own process knows
whether an answer can still come.
"""

import datetime as dt

from django.db import models, router, transaction
from django.db.models import F
from django.utils import timezone

from ..models import StepWorker

RETENTION = dt.timedelta(days=30)
"""How long the rows of a run are kept whose process was killed; every other deletes its own."""


def take(run_id: str, step_key: str, attempt: int, worker: str) -> StepWorker | None:
    """Take a step for a process; return ``None`` if one has it, or had it.

    Parameters
    ----------
    run_id:
        The run.
    step_key:
        Its step.
    attempt:
        How often the step was tried before.
    worker:
        The process, as text.
    """
    with transaction.atomic(using=router.db_for_write(StepWorker)):
        row, created = _rows().get_or_create(
            run_id=run_id, step_key=step_key, attempt=attempt, defaults={"worker": worker}
        )
    return row if created else None


def beat(row: StepWorker) -> None:
    """Give a sign of life."""
    _rows().filter(pk=row.pk).update(beats=F("beats") + 1)


def end(row: StepWorker) -> None:
    """Write down that the step has come to its end, whatever that was."""
    _rows().filter(pk=row.pk).update(ended_at=timezone.now())


def of_run(run_id: str) -> list[StepWorker]:
    """Return who has taken steps of a run, in that order."""
    return list(_rows().filter(run_id=run_id).order_by("pk"))


def forget(run_id: str) -> None:
    """Delete the rows of a run that has ended, and those that nobody has deleted for long."""
    _rows().filter(
        models.Q(run_id=run_id) | models.Q(started_at__lt=timezone.now() - RETENTION)
    ).delete()


def _rows() -> "models.QuerySet[StepWorker]":
    """Return the rows from the database that is written: a replica lags behind."""
    return StepWorker.objects.using(router.db_for_write(StepWorker))
