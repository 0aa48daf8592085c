"""A task whose worker dies at the first attempt."""

import os
import signal

from tests.app.tasks import task  # Django's, or the backport's


@task(takes_context=True)
def dies_once(context):
    """Return what the second attempt knows of the first."""
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    result = context.task_result
    return [context.attempt, len(result.errors), result.worker_ids]
