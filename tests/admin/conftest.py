"""Fixtures of the admin's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from dagster import DagsterInstance
from django.contrib.contenttypes.models import ContentType

from proctree_dagster.running import dagster_loading


@pytest.fixture(autouse=True)
def _fresh_content_types() -> None:
    """Forget the keys of content types: a test that has committed was followed by new rows."""
    ContentType.objects.clear_cache()


@pytest.fixture
def dagster(dagster_home: Path) -> Iterator[DagsterInstance]:
    """A Dagster that this process has imported, as one that serves pages soon has."""
    assert dagster_loading.wait(60)
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that Dagster's storage executes."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith("PRAGMA"):
            found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)
