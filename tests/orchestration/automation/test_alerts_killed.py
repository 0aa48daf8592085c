"""The process that makes the pass is killed: signals and messages are sent once, or once more."""

import json
import os
from pathlib import Path

import pytest

from tests.tools.project import Project
from tests.tools.receivers import mail_settings
from tests.tools.stack import free_port

FULL = os.environ.get("PROCTREE_ACCIDENTS") == "full"
KILLS = 60 if FULL else 0

ONCE = {"heard": 1, "posted": 1, "mailed": 1}
EXPECTED = {
    **dict.fromkeys(("before_commit", "before_signal", "before_delivery", "together"), ONCE),
    "in_receiver": {**ONCE, "heard": 2},
    "as_posted": {**ONCE, "posted": 2},
    "as_mailed": {**ONCE, "mailed": 2},
}
"""How often each is sent, by the moment of the kill: what was sent and not recorded, once more."""


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if FULL else ["sqlite"])
def test_what_happens_is_sent_once_or_once_more_whenever_the_daemon_is_killed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, empty_home: Path
) -> None:
    database = request.getfixturevalue("postgres").new_database() if kind == "postgresql" else None
    ports = {"MAIL_PORT": str(free_port()), "WEB_PORT": str(free_port())}
    alerts = {
        "to": ["ada@example.com", "chat"],
        "webhooks": {"chat": f"http://127.0.0.1:{ports['WEB_PORT']}/"},
        "every_minutes": 0,
    }
    mail = mail_settings(int(ports["MAIL_PORT"]))
    project = Project(tmp_path, empty_home, database, PROCTREE={"ALERTS": alerts}, **mail)
    program = ("-m", "tests.orchestration.automation.alerts_killed")
    answer = json.loads(project.print_of(*program, str(KILLS), "7", **ports).splitlines()[-1])
    assert answer["killed"] >= len(EXPECTED) - 1
    for seen in answer["seen"]:
        moment = seen.pop("moment")
        if moment in EXPECTED:
            assert seen == EXPECTED[moment], moment
        assert set(seen.values()) <= {1, 2}, "never twice more, and never not at all"
