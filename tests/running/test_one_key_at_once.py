"""Many processes submit one key at once: one run is unfinished at any moment, and none is lost."""

import json
import os
from pathlib import Path

import pytest

from tests.tools.project import Project

FULL = os.environ.get("PROCTREE_ACCIDENTS") == "full"
COUNT, PROCESSES = (200, 16) if FULL else (6, 3)


@pytest.fixture(params=["sqlite", "postgresql"] if FULL else ["postgresql"])
def project(request: pytest.FixtureRequest, tmp_path: Path, empty_home: Path) -> Project:
    """The project of processes that submit."""
    is_server = request.param == "postgresql"
    database = request.getfixturevalue("postgres").new_database() if is_server else None
    return Project(tmp_path, empty_home, database)


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("on_conflict", ["queue", "return"] if FULL else ["queue"])
def test_one_run_with_a_key_is_unfinished_at_any_moment_and_none_is_lost(
    project: Project, on_conflict: str
) -> None:
    program = ("-m", "tests.running.one_key_at_once")
    seen = json.loads(project.print_of(*program, str(COUNT), str(PROCESSES), on_conflict))
    assert seen["errors"] == []
    assert seen["most_unfinished"] == 1
    assert seen["is_in_order"]
    assert seen["made"] == seen["requested"]
    if on_conflict == "queue":
        assert seen["made"] == COUNT
