"""Django signals: what happens to runs, processes and schedules.

::

    from django.dispatch import receiver
    from proctree_dagster.signals import run_failed

    @receiver(run_failed)
    def open_a_ticket(sender, tree, run, **kwargs):
        ...

Connect receivers where every process imports them, such as in ``AppConfig.ready``: they are called
in Dagster's code server, by the sensor ``proctree_alerts``, within half a minute of the event, also
for a run whose worker was killed; without a daemon by ``check_and_run_scheduled_tasks()``. Each
event is sent once. Only if the process dies between the call and its record is an event sent a
second time, so a receiver should bear that. An exception in a receiver is logged, and stops no
other receiver.

``sender`` is the model ``ProcessTree``. Every receiver gets these keyword arguments:

``tree``
    The tree's name.
``at``
    When it happened (aware).
``event_id``
    The same text if the same event is sent a second time.

The signals of runs and processes have ``run``, a ``RunSummary``; ``run_failed`` has in
``run.failures`` why processes failed, by their names. ``process_failed`` has ``process``, its name,
and ``error``. The signals of schedules have ``schedule``, the schedule's name, and ``due``.
"""

from django.dispatch import Signal

run_queued = Signal()
"""A run was put into Dagster's queue; it has ``run``."""

run_started = Signal()
"""A run's worker has started it; it has ``run``."""

run_succeeded = Signal()
"""A run has succeeded; it has ``run``."""

run_failed = Signal()
"""A run has failed, or its worker was lost; it has ``run`` and ``will_retry``.

That is whether Dagster repeats it, or another run takes its place.
"""

run_canceled = Signal()
"""A run was canceled; it has ``run``."""

process_failed = Signal()
"""A process has failed, one that may fail included; it has ``run``, ``process`` and ``error``.

It is sent when its run has ended.
"""

schedule_late = Signal()
"""A due time has passed, and no run has started; it has ``schedule`` and ``due``."""

schedule_recovered = Signal()
"""A schedule that was late is not late any more; it has ``schedule`` and ``due``."""

SIGNALS = {
    "run_queued": run_queued,
    "run_started": run_started,
    "run_succeeded": run_succeeded,
    "run_failed": run_failed,
    "run_canceled": run_canceled,
    "process_failed": process_failed,
    "schedule_late": schedule_late,
    "schedule_recovered": schedule_recovered,
}
"""All signals, by their names."""
