"""Sixteen processes that fire a trigger a hundred times between them, and poll others at once.

Run as a program, with the time (seconds since the epoch) at which they all begin.
"""

import sys
import time

from tests.e2e.sixteen import fork_sixteen

FIRES = 100


def fire_and_poll(number: int) -> None:
    """Be one of the sixteen."""
    from django.utils import timezone

    from proctree_dagster import firing
    from proctree_dagster.models import Trigger
    from proctree_dagster.triggers import fire_trigger

    time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
    for trigger in Trigger.objects.exclude(trigger_type="event"):
        firing.poll(trigger.pk, timezone.now())
    for fire in range(number, FIRES, 16):
        fire_trigger("event", {"fire": fire})


if __name__ == "__main__":
    sys.exit(fork_sixteen(fire_and_poll))
