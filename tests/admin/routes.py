"""The addresses of the admin, from Django's resolver: what is added is tested, too."""

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.models import (
    Alert,
    Backfill,
    DagsterAction,
    OutboxRun,
    Pause,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    TreeSource,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import tree_descriptions

APP = "proctree_dagster/"
ROW = "<path:object_id>"
REVISION = "<slug:revision>"

GENERAL = ("", "proctree_dagster/", "autocomplete/")
"""Pages of the site itself that show something of ours."""


def routes(below: str = "admin/") -> list[str]:
    """Return the routes of an admin site that are ours, without those that only redirect."""
    found = [route.removeprefix(below) for route, named in _routes(get_resolver()) if named]
    return sorted({*GENERAL, *(route for route in found if route.startswith(APP))})


def _routes(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for each in resolver.url_patterns:
        route = f"{prefix}{each.pattern}"
        if isinstance(each, URLPattern):
            yield route, each.name
        else:
            yield from _routes(each, route)


@dataclass(frozen=True)
class Rows:
    """A row of each model, to whose pages the routes lead."""

    tree: ProcessTree
    schedule: ProcessTreeSchedule
    trigger: Trigger
    outbox: OutboxRun
    action: DagsterAction
    pause: Pause
    backfill: Backfill
    alert: Alert

    def key(self, model: str) -> str:
        """Return the key of the row of a model; an unknown one for those without rows."""
        rows: dict[str, Any] = {
            "processtree": self.tree,
            "processtreeschedule": self.schedule,
            "trigger": self.trigger,
            "outboxrun": self.outbox,
            "dagsteraction": self.action,
            "pause": self.pause,
            "backfill": self.backfill,
            "alert": self.alert,
        }
        if model == "run":  # that of the outbox, which Dagster does not have yet
            return str(self.outbox.run_id)
        return str(rows[model].pk) if model in rows else str(uuid.UUID(int=7))

    def address(self, route: str) -> str:
        """Return the address of a route, with the keys of these rows."""
        model = route.removeprefix(APP).split("/")[0]
        address = f"/admin/{route}".replace(ROW, self.key(model))
        return address.replace(REVISION, self.tree.revision)


def make_rows(name: str = "t", context: Any = None, tags: Any = None) -> Rows:
    """Make a row of each model, past all checks.

    Parameters
    ----------
    name:
        What everything is called that has a name.
    context:
        The context of each.
    tags:
        The tags of each.
    """
    func = {"func": "tests.app.processes:echo", "dependencies": []}
    trees = [
        ProcessTree(name=each, description=each, processes=[{"name": each, **func}])
        for each in (name, f"{name} (follower)", f"{name} (free)")
    ]
    tree, follower, _free = ProcessTree.objects.bulk_create(trees)
    common = {"context": context or {}, "tags": tags or {}}
    schedule = ProcessTreeSchedule(process_tree=tree, **common)
    schedule.save()
    trigger = Trigger(name=name, description=name, trigger_type="event")
    trigger.save()
    TriggerSubscription.objects.create(trigger=trigger, process_tree=tree, **common)
    TreeLink.objects.create(source=tree, target=follower)
    said = {**tree_descriptions.describe(tree).to_dict(), "description": "as the code said"}
    TreeSource.objects.create(
        process_tree=tree, app_label=name, function=name, said=said, synced_at=timezone.now()
    )
    outbox = OutboxRun.objects.create(
        process_tree=tree,
        context=common["context"],
        tags={**common["tags"], run_tags.TRIGGER: name, run_tags.USER: name},
        reason=name,
    )
    family = {run_tags.FAMILY: str(outbox.run_id)}
    OutboxRun.objects.create(
        process_tree=follower, reason=name, family=str(outbox.run_id), tags=family
    )
    action = DagsterAction.objects.create(
        username=name, action="launchRun", target=name, run_ids=[name], allowed=True
    )
    pause = Pause.objects.create(schedule=schedule, reason=name, made_by=name)
    day = timezone.now() - dt.timedelta(days=1)
    backfill = Backfill.objects.create(
        schedule=schedule, first=day - dt.timedelta(days=1), last=day, made_by=name
    )
    alert = Alert.objects.create(
        kind="failure",
        process_tree=tree,
        tree=name,
        cause=name,
        recipient=name,
        reason=name,
        facts={"failures": {name: name}, "customers": [name], "run_id": str(outbox.run_id)},
        **dict.fromkeys(("first_at", "last_at", "planned_at", "not_before"), day),
    )
    return Rows(tree, schedule, trigger, outbox, action, pause, backfill, alert)


def table(lines: Iterable[Iterable[str]]) -> str:
    """Return lines as a table whose columns are aligned."""
    rows = [tuple(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
