"""Examining Dagster's queue: whether it holds back runs with a key, and runs of limited trees."""

from collections.abc import Iterator

from ...domain import run_tags
from ...models import OutboxRun, ProcessTree
from ..coordinator import OUR_LIMITS
from .findings import Finding, Subject


def check_limits(subject: Subject) -> Iterator[Finding]:
    """Check that Dagster's queue has the limits that keys and trees rely on, where there are any.

    ``StraightRunCoordinator`` adds them; another coordinator, or ``tag_concurrency_limits`` below
    ``concurrency: runs:`` in dagster.yaml, which count instead, has those that it names.
    """
    if subject.instance is None:
        return
    used = _used()
    queue = subject.instance.get_concurrency_config().run_queue_config
    present = {limit["key"] for limit in (queue.tag_concurrency_limits if queue else ())}
    missing = sorted(used - present)
    if missing:
        lines = [limit for limit in OUR_LIMITS if limit["key"] in missing]
        yield Finding(
            "warning",
            "Dagster's queue does not hold back the runs of keys, or of trees with "
            f"one_at_a_time_per: it has no limit for {', '.join(missing)}.",
            "Name StraightRunCoordinator in dagster.yaml, or add to its tag_concurrency_limits: "
            f"{'; '.join(map(str, lines))}",
        )
    elif used:
        yield Finding("ok", "Dagster's queue holds back the runs of keys and of limited trees.")


def _used() -> set[str]:
    """Return the tags of limits that are in use."""
    limited = ProcessTree.objects.exclude(one_at_a_time_per="")
    numbers = limited.values_list("limit_per_key", flat=True).distinct()
    of_keys = {run_tags.KEY} if OutboxRun.objects.exclude(key="").exists() else set()
    return of_keys | {f"{run_tags.AT_MOST}{number}" for number in numbers}
