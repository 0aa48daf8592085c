"""A run for each row, where whoever records or delivers the runs is killed: each row has one."""

import json
import os
from pathlib import Path

import pytest

from tests.tools.project import Project

FULL = os.environ.get("PROCTREE_ACCIDENTS") == "full"
ROWS, KILLS = (1000, 20) if FULL else (20, 3)


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if FULL else ["sqlite"])
def test_each_row_has_one_run_whoever_is_killed_at_whatever_moment(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, empty_home: Path
) -> None:
    database = request.getfixturevalue("postgres").new_database() if kind == "postgresql" else None
    project = Project(tmp_path, empty_home, database)
    printed = project.print_of("-m", "tests.services.rows_killed", str(ROWS), str(KILLS), "7")
    seen = json.loads(printed.splitlines()[-1])
    assert seen["partly"] == 0, "all of them, or none"
    wanted = ("recorded", "runs", "organisations", "queued")
    assert [seen[each] for each in wanted] == [ROWS] * 4
