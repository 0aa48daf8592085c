"""The gate of a process that waits for a trigger: it runs, or is skipped with a reason."""

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError
from django.db.models import F
from django.utils import timezone

from ..domain.texts import explain, in_utc
from ..models import Trigger, TriggerPassage, TriggerState, TriggerType
from ..support.connections import writing
from . import trigger_evaluation
from .trigger_firing import align

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """Decides whether one process of a tree runs, by the trigger that it names."""

    trigger: str
    """The trigger's name."""

    job_name: str
    """The job of the tree."""

    process: str
    """The process's name."""

    def skip_reason(
        self, available: Mapping[str, Any], context: Mapping[str, Any] | None = None
    ) -> str | None:
        """Return why the process is skipped; ``None`` if it runs.

        Parameters
        ----------
        available:
            The context, and the results of the dependencies.
        context:
            The context alone, for a function that takes it as ``context``.
        """
        try:
            answer = self._ask(available, context)
        except (Exception, SystemExit) as error:  # whatever it raises, the process is skipped
            logger.exception(
                "The trigger %r of process %r can't be asked; the process does not run.",
                *(self.trigger, self.process),
            )
            answer = trigger_evaluation.Answer(False, f"it can't be asked: {explain(error)}")
        return None if answer.yes else f"Trigger {self.trigger} is silent: {answer.reason}"

    def record_completion(self, asked_at: dt.datetime) -> None:
        """Record that the process has completed.

        Parameters
        ----------
        asked_at:
            Aware; when the gate was evaluated. A due time since then counts for the next run.
        """
        schedules = Trigger.objects.filter(trigger_type=TriggerType.SCHEDULE)
        try:
            trigger = schedules.filter(name=self.trigger).first()
            if trigger is not None:
                with writing(TriggerPassage):
                    TriggerPassage.objects.update_or_create(
                        trigger=trigger,
                        job_name=self.job_name,
                        process=self.process,
                        defaults={"passed_at": asked_at},
                    )
        except DatabaseError:  # the work is done; at worst the next run repeats it
            logger.exception("It could not be written down that %r has run.", self.process)

    def _ask(
        self, available: Mapping[str, Any], context: Mapping[str, Any] | None
    ) -> trigger_evaluation.Answer:
        trigger = Trigger.objects.filter(name=self.trigger).first()
        if trigger is None:
            logger.error(
                "Process %r waits for the trigger %r, which does not exist (any more).",
                *(self.process, self.trigger),
            )
            return trigger_evaluation.Answer(False, "it does not exist")
        if not trigger.enabled:
            return trigger_evaluation.Answer(False, "it is disabled")
        Trigger.objects.filter(pk=trigger.pk).update(check_count=F("check_count") + 1)
        if trigger.trigger_type == TriggerType.EVENT:
            fired = trigger.state == TriggerState.FIRED
            return trigger_evaluation.Answer(fired, "it has fired" if fired else "it has not fired")
        if trigger.trigger_type == TriggerType.SCHEDULE:
            return self._is_due(trigger)
        return trigger_evaluation.ask(
            trigger.trigger_type, trigger.configuration, available, context
        )

    def _is_due(self, trigger: Trigger) -> trigger_evaluation.Answer:
        """Return whether a due time has passed since the process last completed."""
        now = timezone.now()
        align(trigger, now)
        passage = TriggerPassage.objects.filter(
            trigger=trigger, job_name=self.job_name, process=self.process
        ).first()
        due = trigger.due_after(trigger.created_at if passage is None else passage.passed_at)
        return trigger_evaluation.Answer(due <= now, f"due at {in_utc(due)}")
