"""Every run is started once and ends: real workers, on several hosts."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest
from dagster import DagsterEvent, DagsterRunStatus
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.models import RunWorker
from proctree_dagster.orchestration.runs import run_taking
from proctree_dagster.services import run_workers
from proctree_dagster.services.run_workers import Order, Sign
from proctree_dagster.support.os_processes import Identity, State
from tests.tools.host import Host, can_have_namespaces
from tests.tools.shared_home import LOST_AFTER, Home, Run
from tests.tools.stack import wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[Home]:
    with django_db_blocker.unblock():
        found = Home(tmp_path_factory.mktemp("home") / "it")
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def container() -> None:
    if not can_have_namespaces():
        pytest.skip("this user can't make namespaces")


def alive(word: str) -> bool:
    """Return whether a program runs that was started with this word."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] == [word] and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            continue
    return False


def host_with(home: Home, **monitoring: object) -> Host:
    """Return a host that has its own settings of Dagster's run monitoring."""
    home.configure(**monitoring)
    host = home.host()
    host.identity()  # it has read them
    home.configure()
    return host


def gone(pid: int) -> bool:
    return Identity.of(pid).state is State.GONE


# Taken once


@pytest.mark.parametrize("monitoring", [True, False])
def test_of_several_workers_of_one_run_one_executes_it(home: Home, monitoring: bool) -> None:
    host = host_with(home, enabled=monitoring)
    run = Run.create(home, host, "sleep")
    pids = host.start_workers(run.run_id, 3)
    run.called()
    wait_for("the others to end", lambda: sum(map(gone, pids)) == 2)
    assert run.status == DagsterRunStatus.STARTED, "the others have left it alone"
    run.may_go()
    assert run.ended() == DagsterRunStatus.SUCCESS
    assert len(run.calls()) == 1
    assert run.messages.count("Another worker executes this run") == 2


def test_a_run_that_is_launched_twice_is_executed_once(home: Home) -> None:
    run = Run.create(home, home.here, "sleep")
    home.here.launch(run.run_id)
    home.here.launch(run.run_id)
    run.called()
    wait_for("the second", lambda: "Another worker executes" in run.messages)
    assert run.status == DagsterRunStatus.STARTED
    assert home.here.terminate(run.run_id), "the one that executes it is found, whoever came last"
    assert run.ended(home.here) == DagsterRunStatus.CANCELED
    assert len(run.calls()) == 1


def test_a_run_that_was_launched_twice_goes_on_when_the_second_worker_has_ended(home: Home) -> None:
    run = Run.create(home, home.here, "sleep")
    home.here.launch(run.run_id)
    home.here.launch(run.run_id)
    run.called()
    found = wait_for(
        "the second", lambda: re.search(r"so; process (\d+) .* leaves it alone", run.messages)
    )
    wait_for("it to end", lambda: gone(int(found[1])))
    # By then the template has seen it end.
    assert Run.start(home, home.here, "note").ended() == DagsterRunStatus.SUCCESS
    wait_for("its death to be written down, if it is", lambda: not reports_of(run.run_id))
    assert run.status == DagsterRunStatus.STARTED
    run.may_go()
    assert run.ended() == DagsterRunStatus.SUCCESS
    assert len(run.calls()) == 1


def reports_of(run_id: str) -> list[psutil.Process]:
    """Return the processes that write down the death of a run's worker."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if "--died" in words and run_id in words[-1]:
                found.append(process)
    return found


def test_a_worker_that_comes_after_the_run_has_ended_calls_nothing(home: Home) -> None:
    run = Run.start(home, home.here, "note")
    assert run.ended() == DagsterRunStatus.SUCCESS
    [pid] = home.here.start_workers(run.run_id, 1)
    wait_for("the late one to end", lambda: gone(pid))
    assert len(run.calls()) == 1
    assert run.status == DagsterRunStatus.SUCCESS, "the launch has marked it as starting"


def test_a_run_that_has_ended_and_is_launched_again_without_a_worker_stays_what_it_was(
    home: Home,
) -> None:
    for tree, fails, end in (
        ("note", {}, "SUCCESS"),
        ("start_programs", {"fails": True}, "FAILURE"),
    ):
        run = Run.start(home, home.here, tree, **fails)
        assert run.ended().value == end
        home.here.start_workers(run.run_id, 0)  # the second daemon was killed
        assert run.status == DagsterRunStatus.STARTING
        assert run.ended(home.here).value == end


def test_a_run_that_is_launched_again_while_it_is_executed_does_not_stay_starting(
    home: Home,
) -> None:
    run = Run.start(home, home.here, "sleep")
    home.here.start_workers(run.run_id, 0)
    wait_for(
        "it to be started again",
        lambda: [home.here.settle(), run.status == DagsterRunStatus.STARTED][1],
    )
    run.may_go()
    assert run.ended() == DagsterRunStatus.SUCCESS


# Lost


def test_a_run_of_a_container_that_died_fails_on_another_host(home: Home, container: None) -> None:
    there = home.host("c1", boot="one")
    run = Run.start(home, there, "sleep")
    for _ in range(4):
        time.sleep(LOST_AFTER / 3)
        home.here.settle()
        assert run.status == DagsterRunStatus.STARTED, "it is alive, and has said so"
    there.die()
    died = time.monotonic()
    home.here.settle()
    assert run.status == DagsterRunStatus.STARTED, "it may be alive"
    assert run.ended(home.here) == DagsterRunStatus.FAILURE
    assert time.monotonic() - died >= LOST_AFTER / 2
    assert "No sign of life of its worker" in run.messages
    assert "'c1'" in run.messages


def test_a_healthy_run_that_cannot_be_seen_is_left_alone(home: Home, container: None) -> None:
    others = [home.host("another"), home.host(os.uname().nodename)]
    run = Run.start(home, home.here, "hold_the_lock", seconds=LOST_AFTER + 8)
    deadline = time.monotonic() + LOST_AFTER + 2
    while time.monotonic() < deadline:
        for other in others:
            other.settle()
            if run.status == DagsterRunStatus.SUCCESS:  # these looks were slow
                break
            assert run.status == DagsterRunStatus.STARTED
            assert other.health(run.run_id) in ("RUNNING", "SUCCESS")
        time.sleep(0.5)
    assert run.ended() == DagsterRunStatus.SUCCESS


def test_a_run_is_terminated_from_another_host(home: Home, container: None) -> None:
    there = home.host("c1")
    run = Run.start(home, there, "hang")
    assert home.here.terminate(run.run_id)
    assert run.status == DagsterRunStatus.CANCELING
    assert run.ended(home.here) == DagsterRunStatus.CANCELED
    assert there.state(run.row.pid) == "gone", "it was ended before"


def test_a_run_whose_host_has_died_is_terminated(home: Home, container: None) -> None:
    there = home.host("c1")
    run = Run.start(home, there, "hang")
    there.die()
    assert home.here.terminate(run.run_id)
    assert run.ended(home.here) == DagsterRunStatus.CANCELED


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_plain_worker_that_dies_or_is_stopped_fails_its_run_without_run_monitoring(
    home: Home, how: signal.Signals
) -> None:
    run = Run.create(home, home.here, "sleep")
    [pid] = home.here.start_workers(run.run_id, 1)
    run.called()
    os.kill(pid, how)
    assert run.ended(home.here) == DagsterRunStatus.FAILURE
    assert gone(pid), "it has ended before its run was called so"


def test_a_worker_whose_guardian_was_killed_is_not_lost_where_it_is_seen(home: Home) -> None:
    run = Run.start(home, home.here, "sleep")
    guardian = json.loads(run.record.tags[run_tags.WORKER])["guardian"]
    os.kill(guardian, signal.SIGKILL)
    for _ in range(4):
        time.sleep(LOST_AFTER / 3)
        assert home.here.settle() == ""
    assert home.here.terminate(run.run_id)
    assert run.ended(home.here) == DagsterRunStatus.CANCELED


def test_a_run_that_was_given_up_ends_its_worker_when_that_is_heard_of_again(home: Home) -> None:
    run = Run.start(home, home.here, "hang")
    worker = run.worker
    home.instance.report_run_failed(run.record)
    RunWorker.objects.using("home").filter(run_id=run.run_id).update(ended_at=timezone.now())
    assert worker.wait(30)
    assert run.status == DagsterRunStatus.FAILURE


def test_a_run_that_nobody_takes_does_not_stay_starting(home: Home) -> None:
    host = host_with(home, start_timeout_seconds=1)
    run = Run.create(home, host, "note")
    host.start_workers(run.run_id, 0)  # launched, and whoever launched it has died
    assert run.ended(host) == DagsterRunStatus.FAILURE
    [pid] = host.start_workers(run.run_id, 1)  # one that comes too late after all
    wait_for("the late one to end", lambda: gone(pid))
    assert run.calls() == []


@pytest.fixture
def impatient(home: Home) -> Host:
    """A host on which a run may be starting for four seconds, half of it without a worker."""
    return host_with(home, start_timeout_seconds=4)


def in_the_queue(home: Home, host: Host) -> Run:
    """Return a run that is in the queue; nobody here launches what is in it."""
    run = Run.create(home, host, "note")
    event = DagsterEvent.job_enqueue(run.record)
    home.instance.report_dagster_event(event, run_id=run.run_id)
    return run


def queued_again(run: Run, host: Host) -> None:
    """Let a run be launched by somebody who is killed, and wait until it is in the queue again."""
    host.start_workers(run.run_id, 0)
    wait_until_queued(run, host)


def wait_until_queued(run: Run, host: Host) -> None:
    def look() -> bool:
        host.settle()
        return run.status == DagsterRunStatus.QUEUED

    wait_for("it to be queued", look, 30)


def test_a_run_of_the_queue_whose_launch_was_interrupted_is_launched_again_and_executed_once(
    home: Home, impatient: Host
) -> None:
    run = in_the_queue(home, impatient)
    queued_again(run, impatient)
    assert "whoever launched it may have been killed. It is queued again." in run.messages
    impatient.start_workers(run.run_id, 2)  # the next launch, and the interrupted one after all
    assert run.ended() == DagsterRunStatus.SUCCESS
    wait_for("the other", lambda: "Another worker executes this run" in run.messages)
    assert len(run.calls()) == 1


def test_a_worker_that_comes_up_when_its_run_is_in_the_queue_again_leaves_it_there(
    home: Home, impatient: Host
) -> None:
    run = in_the_queue(home, impatient)
    [pid] = impatient.start_workers(run.run_id, 1)
    os.kill(pid, signal.SIGSTOP)  # it takes long, until the run is in the queue again
    wait_until_queued(run, impatient)
    os.kill(pid, signal.SIGCONT)
    wait_for("it to end", lambda: gone(pid))
    assert "This run waits in the queue for its next launch" in run.messages
    assert run.status == DagsterRunStatus.QUEUED
    assert run.calls() == []
    impatient.start_workers(run.run_id, 1)
    assert run.ended() == DagsterRunStatus.SUCCESS
    assert len(run.calls()) == 1


def test_a_run_that_no_launch_brings_a_worker_for_fails_after_the_third(
    home: Home, impatient: Host
) -> None:
    run = in_the_queue(home, impatient)
    queued_again(run, impatient)
    queued_again(run, impatient)
    impatient.start_workers(run.run_id, 0)
    assert run.ended(impatient) == DagsterRunStatus.FAILURE
    assert "No worker has taken it within" in run.messages


# Terminated


@pytest.mark.parametrize("stopped", [False, True])
def test_a_function_that_heeds_nothing_is_ended_before_its_run_is_canceled(
    home: Home, stopped: bool
) -> None:
    run = Run.start(home, home.here, "hang")
    worker = run.worker
    if stopped:
        os.kill(worker.pid, signal.SIGSTOP)
    assert home.here.terminate(run.run_id)
    assert home.here.terminate(run.run_id), "a second time is no error"
    while worker.state is not State.GONE:
        assert run.status == DagsterRunStatus.CANCELING
        time.sleep(0.05)
    assert run.ended() == DagsterRunStatus.CANCELED


def test_with_dagsters_own_launcher_too_it_is_ended_and_then_canceled(home: Home) -> None:
    host = home.host()
    run = Run.create(home, host, "hang")
    host.launch_by_server(run.run_id)
    run.called()
    worker = run.worker
    host.settle()
    assert host.terminate(run.run_id)
    while worker.state is State.RUNNING:
        assert run.status == DagsterRunStatus.CANCELING
        time.sleep(0.05)
    assert worker.wait(90)
    assert run.ended() == DagsterRunStatus.CANCELED


def test_a_run_that_somebody_has_marked_as_canceled_ends_its_worker(home: Home) -> None:
    run = Run.start(home, home.here, "hang")
    worker = run.worker
    home.instance.report_run_canceled(run.record)
    wait_for("it to end", lambda: [home.here.settle(), worker.state is State.GONE][1], 60)


def executed(home: Home, host: Host) -> Run:
    """Let a host execute a tree in its own process."""
    word = f"word-{uuid.uuid4()}"
    host.execute("sleep", {"word": word})
    run = Run(home, "", word)
    run.called()
    [record] = home.instance.get_runs(limit=1)
    run.run_id = record.run_id
    return run


def test_a_run_in_somebodys_process_is_terminated_and_the_process_stays(home: Home) -> None:
    host = home.host()
    run = executed(home, host)
    assert host.settle() == ""
    assert host.terminate(run.run_id)
    assert run.ended(home.here) == DagsterRunStatus.CANCELED
    assert host.settle() == "", "the host's process, which executed it, is there"
    rows = RunWorker.objects.using("home").filter(run_id=run.run_id)
    wait_for("its row to go", lambda: not rows.exists())


def test_signs_of_life_go_on_whatever_goes_wrong_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    canceled = threading.Event()
    wrong: list[Exception] = [OperationalError("away"), OSError("it"), ImproperlyConfigured("no")]

    def beat(*args: object) -> Order:
        if wrong:
            raise wrong.pop()
        return Order.CANCEL

    def seconds() -> float:
        if len(wrong) == 3:
            raise wrong.pop()
        return 0.01

    monkeypatch.setattr(run_taking, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(run_workers, "beat_seconds", seconds)
    monkeypatch.setattr(run_workers, "take", lambda *args, **kwargs: True)
    monkeypatch.setattr(run_workers, "forget", lambda *args: None)
    monkeypatch.setattr(run_workers, "beat", beat)
    heartbeat = run_taking.Heartbeat("a run", canceled.set, dedicated=False)
    heartbeat.start()
    try:
        assert canceled.wait(60)
    finally:
        heartbeat.stop()
    assert wrong == []


def test_a_run_in_a_process_that_is_killed_fails(home: Home) -> None:
    host = home.host()
    run = executed(home, host)
    host.die()
    assert run.ended(home.here) == DagsterRunStatus.FAILURE


# Programs


@pytest.mark.parametrize("end", ["fails", "terminated", "killed", "succeeds"])
def test_the_programs_that_a_run_has_started_end_with_it_unless_it_succeeds(
    home: Home, end: str
) -> None:
    hangs = end in ("terminated", "killed")
    run = Run.start(home, home.here, "start_programs", fails=end == "fails", hangs=hangs)
    if end == "terminated":
        assert home.here.terminate(run.run_id)
    elif end == "killed":
        os.kill(run.worker.pid, signal.SIGKILL)
    statuses = {
        "fails": DagsterRunStatus.FAILURE,
        "terminated": DagsterRunStatus.CANCELED,
        "killed": DagsterRunStatus.FAILURE,
        "succeeds": DagsterRunStatus.SUCCESS,
    }
    assert run.ended() == statuses[end], run.messages
    lives = end == "succeeds"
    assert alive(f"plain {run.word}") == alive(f"own group {run.word}") == lives
    assert alive(f"detached {run.word}"), "it has left the session, as a daemon does"
    assert "still run" in run.messages


# The rows by themselves


@pytest.mark.django_db
class TestRows:
    def here(self) -> Identity:
        return Identity.of_this_process()

    def elsewhere(self, pid: int = 1) -> Identity:
        return replace(self.here(), host="elsewhere", pid=pid)

    def row(self, **changes: object) -> RunWorker:
        RunWorker.objects.filter(run_id="run").update(**changes)
        return run_workers.with_now(RunWorker.objects.all()).get(run_id="run")

    def test_the_first_one_takes_a_run(self) -> None:
        assert run_workers.take("run", self.here(), dedicated=True)
        assert run_workers.take("run", self.here(), dedicated=True), "it has it"
        assert not run_workers.take("run", self.elsewhere(), dedicated=True)
        run_workers.end("run", self.here())
        assert not run_workers.take("run", self.elsewhere(), dedicated=True), "it was executed"

    def test_a_resumed_run_is_taken_from_a_worker_that_is_lost_and_from_no_other(self) -> None:
        run_workers.take("run", self.here(), dedicated=True)
        resume = {"dedicated": True, "resumed": True}
        assert not run_workers.take("run", self.elsewhere(), **resume)
        run_workers.end("run", self.here())
        assert run_workers.take("run", self.elsewhere(), **resume)
        assert not run_workers.take("run", self.elsewhere(2), **resume), "it was heard of just now"
        assert run_workers.beat("run", self.here()) is Order.GIVEN_UP
        assert run_workers.beat("run", self.elsewhere()) is Order.GO_ON

    def test_a_resumed_run_is_not_taken_from_one_that_is_only_silent(self) -> None:
        run_workers.take("run", self.elsewhere(), dedicated=True)
        silent = timezone.now() - 10 * run_workers.RETENTION
        self.row(beat_at=silent)
        resume = {"dedicated": True, "resumed": True}
        assert not run_workers.take("run", self.here(), **resume)
        assert self.row().suspected_at is not None, "it is asked"
        self.row(suspected_at=silent)
        assert run_workers.take("run", self.here(), **resume)

    def test_a_worker_of_a_resumed_run_waits_until_the_other_one_is_lost(
        self, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "LOST_AFTER": 6}
        answers = [False, False, True]
        monkeypatch.setattr(run_workers, "take", lambda *_, **__: answers.pop(0))
        assert not run_taking._take("run", self.here(), resumed=False)
        assert run_taking._take("run", self.here(), resumed=True)

    def test_a_sign_of_life_says_what_was_asked_meanwhile(self) -> None:
        run_workers.take("run", self.here(), dedicated=True)
        assert run_workers.beat("run", self.here()) is Order.GO_ON
        assert run_workers.request_cancel("run")
        assert not run_workers.request_cancel("run"), "it was before"
        assert run_workers.beat("run", self.here()) is Order.CANCEL
        RunWorker.objects.all().delete()
        assert run_workers.beat("run", self.here()) is Order.GO_ON, "nothing was decided"

    def test_nobody_is_given_up_who_has_given_a_sign_of_life_meanwhile(self) -> None:
        run_workers.take("run", self.elsewhere(), dedicated=True)
        read = self.row()
        run_workers.beat("run", self.elsewhere())
        assert not run_workers.suspect(read)
        assert not run_workers.give_up(read)
        assert run_workers.give_up(self.row())

    def test_after_the_database_was_away_everybody_has_time_to_say_that_they_live(self) -> None:
        run_workers.take("run", self.elsewhere(), dedicated=True)
        silent = self.row(beat_at=timezone.now() - 10 * run_workers.RETENTION)
        assert run_workers.sign_of(silent) is Sign.SILENT
        assert not run_workers.is_lost(silent)
        assert run_workers.suspect(silent)
        assert not run_workers.is_lost(self.row()), "suspected just now"
        run_workers.beat("run", self.elsewhere())
        assert self.row().suspected_at is None

    def test_one_that_can_be_seen_is_alive_whatever_its_row_says(self) -> None:
        run_workers.take("run", self.here(), dedicated=True)
        long_ago = timezone.now() - 10 * run_workers.RETENTION
        assert run_workers.sign_of(self.row(beat_at=long_ago)) is Sign.ALIVE
        assert run_workers.sign_of(self.row(process_started="1")) is Sign.ENDED

    def test_rows_of_runs_that_ended_long_ago_are_deleted(self) -> None:
        run_workers.take("run", self.here(), dedicated=True)
        run_workers.take("other", self.here(), dedicated=True)
        run_workers.end("run", self.here())
        assert run_workers.prune() == 0
        self.row(ended_at=timezone.now() - 2 * run_workers.RETENTION)
        assert run_workers.prune() == 1
        assert RunWorker.objects.count() == 1


def test_a_guardian_imports_no_dagster_and_no_app_of_the_project() -> None:
    code = (
        "import sys\n"
        "from proctree_dagster.orchestration import guardian\n"
        "from proctree_dagster.support.os_processes import Identity\n"
        "charge = guardian.Charge(Identity.of_this_process(), 'run', 1, 60, 5, 0)\n"
        "database = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}\n"
        "guardian._set_django_up(database, charge)\n"
        "from proctree_dagster.services import run_workers\n"
        "assert 'dagster' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
