"""Let runs fail, kill who makes the pass over them at chosen and random moments, and count.

Run as a program, with Django's settings in the environment, and as arguments how many kills at
random moments, and a seed. It prints as JSON how often each failure was heard: by a receiver of the
signal, by a web server and by a mail server.
"""

import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEARD = Path("heard.txt")
"""Where the receiver of the signal notes the runs of which it was called."""


def kill_me(*_args: Any, **_kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note_run(**_given: Any) -> None:
    """Note the run that has failed: a receiver of the signal."""
    with HEARD.open("a") as file:
        file.write(f"{_given['run'].run_id}\n")
        file.flush()
        os.fsync(file.fileno())


def fail() -> str:
    """Record a run that has failed, and return its id."""
    from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun

    from proctree_dagster.domain import run_tags

    run_id = str(uuid.uuid4())
    with DagsterInstance.get() as instance:
        instance.add_run(DagsterRun("books", run_id, tags={run_tags.TREE: "books"}))
        failure = DagsterEventType.PIPELINE_FAILURE.value
        instance.report_dagster_event(DagsterEvent(failure, "books", message=run_id), run_id)
    return run_id


def look() -> None:
    """Make a pass."""
    from dagster import DagsterInstance

    from proctree_dagster.orchestration.automation import alerts_sensor

    with DagsterInstance.get() as instance:
        alerts_sensor.look(instance)


def before_commit() -> None:
    from proctree_dagster.services import events

    events._move = kill_me


def before_signal() -> None:
    from proctree_dagster.services import events

    events.send = kill_me  # type: ignore[assignment]


def in_receiver() -> None:
    from proctree_dagster.signals import run_failed

    run_failed.connect(kill_me, weak=False)  # after the one that has noted it


def before_delivery() -> None:
    from proctree_dagster.services import alert_delivery

    alert_delivery.deliver = kill_me  # type: ignore[assignment]


MOMENTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (before_commit, before_signal, in_receiver, before_delivery)
}
"""What a process that is going to be killed prepares, by the moment."""

BY_SERVER = ("as_posted", "as_mailed")
"""The moments at which the server kills it that has received the message."""


TOGETHER = "together"
"""No process is killed, and several make the pass at the same moment."""


def pass_lease() -> None:
    """Let the leases of a process end that was killed."""
    from django.utils import timezone

    from proctree_dagster.models import Alert, Event

    Event.objects.update(leased_until=None)
    Alert.objects.filter(state="waiting").update(not_before=timezone.now())


def child(prepare: Callable[[], None]) -> int:
    """Make a pass in another process; return its id."""
    from django.db import connections

    connections.close_all()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            look()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def main(kills: int, seed: int) -> None:
    """Kill at each moment, and then at random ones."""
    import django

    django.setup()
    from django.core.management import call_command

    import proctree_dagster.orchestration.automation.alerts_sensor  # noqa: F401  # once for all
    from proctree_dagster.orchestration.template.preload import read_migrations_once
    from proctree_dagster.signals import run_failed
    from tests.tools.receivers import mail_server, web_server

    call_command("migrate", verbosity=0)
    read_migrations_once()
    run_failed.connect(note_run)
    chance = random.Random(seed)  # for moments, not for secrets
    moments = [*MOMENTS, *BY_SERVER, TOGETHER, *["random"] * kills]
    made: list[tuple[str, str]] = []
    killed = 0
    with (
        mail_server(port=int(os.environ["MAIL_PORT"])) as mails,
        web_server(port=int(os.environ["WEB_PORT"])) as posts,
    ):
        for moment in moments:
            made.append((moment, fail()))
            others = [child(lambda: None) for _ in range(2 * (moment == TOGETHER))]
            pid = child(MOMENTS.get(moment, lambda: None))
            server = {"as_posted": posts, "as_mailed": mails}.get(moment)
            if server is not None:
                server.then = lambda pid=pid: os.kill(pid, signal.SIGKILL)  # type: ignore[misc]
            if moment == "random":
                time.sleep(chance.uniform(0.0, 0.3))
                os.kill(pid, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            assert not any(os.waitpid(each, 0)[1] for each in others)
            mails.then = posts.then = lambda: None
            for _ in range(2):
                pass_lease()
                look()
        heard = HEARD.read_text().split()
        posted = [body["failures"][""] for _path, _headers, body in posts.items]
        mailed = "\n".join(text for _to, _subject, text in mails.items)
    print(
        json.dumps(
            {
                "killed": killed,
                "seen": [
                    {
                        "moment": moment,
                        "heard": heard.count(run_id),
                        "posted": posted.count(run_id),
                        "mailed": mailed.count(f"It said: {run_id}"),
                    }
                    for moment, run_id in made
                ],
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
