"""Links that are made at the same time, by processes that don't see each other's."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from proctree_dagster.exceptions import InvalidTree
from proctree_dagster.models import ProcessTree, TreeLink, TreeLinkQuerySet


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: Any) -> Iterator[str]:
    """The alias of a database that threads can share."""
    values = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    if request.param == "postgresql":
        values = request.getfixturevalue("postgres").new_database()
    connections.settings["other"] = {**connections.settings["default"], "OPTIONS": {}, **values}
    try:
        with django_db_blocker.unblock():
            call_command("migrate", database="other", verbosity=0)
            yield "other"
    finally:
        connections["other"].close()
        del connections["other"]
        del connections.settings["other"]


def test_of_two_halves_of_a_circle_that_are_made_at_once_one_is_refused(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would look before the other has written, if it could."""
    one, two = (
        ProcessTree.objects.using(other).create(name=name, processes=[]) for name in ("one", "two")
    )
    both = threading.Barrier(2)
    look = TreeLinkQuerySet.circle_made_by

    def look_and_wait(self: TreeLinkQuerySet, given: list[TreeLink]) -> str | None:
        problem = look(self, given)
        with suppress(threading.BrokenBarrierError):  # the other one is kept waiting, as it should
            both.wait(1)
        return problem

    monkeypatch.setattr(TreeLinkQuerySet, "circle_made_by", look_and_wait)
    refused: list[str] = []

    def link(source: ProcessTree, target: ProcessTree) -> None:
        try:
            TreeLink(source=source, target=target).save(using=other)
        except InvalidTree as error:
            refused.append(str(error))
        finally:
            connections[other].close()

    threads = [threading.Thread(target=link, args=pair) for pair in [(one, two), (two, one)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert TreeLink.objects.using(other).count() == 1
    assert len(refused) == 1
    assert "in a circle" in refused[0]
