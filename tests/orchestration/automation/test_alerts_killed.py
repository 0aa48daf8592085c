"""The process that makes the pass is killed: signals and messages are sent once, or once more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools import TOP
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
    home = shutil.copytree(empty_home, tmp_path / "home")
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"timeout": 60},
    }
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").new_database()
    ports = {"MAIL_PORT": str(free_port()), "WEB_PORT": str(free_port())}
    alerts = {
        "to": ["ada@example.com", "chat"],
        "webhooks": {"chat": f"http://127.0.0.1:{ports['WEB_PORT']}/"},
        "every_minutes": 0,
    }
    (tmp_path / "alerts_settings.py").write_text(
        "from tests.settings import *\n"
        f"DATABASES = {{'default': {database!r}}}\nLOGGING = {{}}\n"
        f"PROCTREE = {{'ALERTS': {alerts!r}}}\n"
        f"globals().update({mail_settings(int(ports['MAIL_PORT']))!r})\n"
    )
    program = "tests.orchestration.automation.alerts_killed"
    ended = subprocess.run(
        [sys.executable, "-m", program, str(KILLS), "7"],
        env={
            **os.environ,
            **ports,
            "DJANGO_SETTINGS_MODULE": "alerts_settings",
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(TOP), str(tmp_path)]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(ended.stdout)
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert answer["killed"] >= len(EXPECTED) - 1
    for seen in answer["seen"]:
        moment = seen.pop("moment")
        if moment in EXPECTED:
            assert seen == EXPECTED[moment], moment
        assert set(seen.values()) <= {1, 2}, "never twice more, and never not at all"
