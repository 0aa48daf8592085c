"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from pytest_django import Settings


@pytest.fixture(autouse=True)
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach an instance that the environment names."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


@pytest.fixture
def dagster_home(tmp_path: Path, settings: Settings) -> Path:
    """Give the test a Dagster instance of its own."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(home)}
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[DagsterInstance]:
    """The instance, to look up what was recorded."""
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance
