"""What a function says while it runs: where it is heard, and where not."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, TableMetadataValue
from dagster_graphql.schema.logs.log_level import GrapheneLogLevel
from pytest_django import Settings

from proctree_dagster.exceptions import ReportError
from proctree_dagster.orchestration.execution import step_logs
from proctree_dagster.process import log_image, log_table, progress, reporting
from proctree_dagster.process.reporting import Image, Progress, Report, Table
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import reports

LIBRARY = "urllib3.connectionpool"


class Notes:
    """Notes what a process says."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        self.said: list[str] = []

    def log(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def progress(self, progress: Progress) -> None:
        self.said.append(str(progress))

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def report(notes: Notes) -> Iterator[Report]:
    with reporting.reporting(notes) as found:
        yield found


# --- The log --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
def test_the_projects_own_loggers_are_heard_from_info_on_and_others_from_warning_on(
    notes: Notes,
) -> None:
    reports.says()
    assert notes.lines == ["fetching invoices", "a warning", "a library's warning"]


def test_the_level_and_the_loggers_are_settings(notes: Notes, settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "LOG_LEVEL": "DEBUG", "LOGGERS": ["urllib3"]}
    with reporting.reporting(notes):
        reports.says()
    assert notes.lines == ["a warning", "a library's detail", "a library's warning"]


def test_nothing_is_changed_behind_it(notes: Notes) -> None:
    before = list(logging.getLogger().handlers)
    levels = {name: logging.getLogger(name).level for name in ("tests.app", "tests", "")}
    with reporting.reporting(notes), reporting.reporting(notes):
        assert logging.getLogger("tests.app").level == logging.INFO
    assert logging.getLogger().handlers == before
    assert {name: logging.getLogger(name).level for name in levels} == levels
    reports.says()
    assert notes.lines == []


def test_a_logger_whose_owner_has_set_its_level_is_left_as_it_is(notes: Notes) -> None:
    logger = logging.getLogger("tests.app")
    logger.setLevel(logging.ERROR)
    try:
        with reporting.reporting(notes):
            reports.says()
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(logging.NOTSET)
    assert notes.lines == ["a library's warning"]


def test_a_logger_that_hands_nothing_on_is_heard_too(notes: Notes) -> None:
    logger = logging.getLogger("tests.app")
    logger.propagate = False
    try:
        with reporting.reporting(notes):
            reports.says()
    finally:
        logger.propagate = True
    assert "fetching invoices" in notes.lines


def test_each_of_two_processes_at_once_is_heard_by_its_own_listener() -> None:
    heard = {name: Notes() for name in ("one", "two")}
    both = threading.Barrier(2)

    def run(name: str) -> None:
        with reporting.reporting(heard[name]):
            both.wait(10)
            reports.logger.info("I am %s", name)
            both.wait(10)

    threads = [threading.Thread(target=run, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: each.lines for name, each in heard.items()} == {
        "one": ["I am one"],
        "two": ["I am two"],
    }


@pytest.mark.usefixtures("report")
def test_a_listener_that_logs_is_not_heard_by_itself(notes: Notes) -> None:
    def log(record: logging.LogRecord) -> None:
        notes.records.append(record)
        reports.logger.warning("heard it")

    notes.log = log  # type: ignore[method-assign]
    reports.logger.warning("something")
    assert notes.lines == ["something"]


# --- Progress -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
def test_progress_is_told_at_most_once_a_second_and_at_the_end(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for done in range(1, 1000):
        progress(done, 1000, "invoices")
        now += 0.01
    assert len(notes.said) == 10
    progress(1000, 1000, "invoices")
    assert notes.said[0] == "1 of 1000 invoices (0 %)"
    assert notes.said[-1] == "1000 of 1000 invoices (100 %)"


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("total", [0, 10, None])
def test_progress_that_is_complete_long_since_is_told_no_more_often(
    notes: Notes, monkeypatch: pytest.MonkeyPatch, total: int | None
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for done in range(1, 1000):  # of None: of as many as were found until now
        progress(done, done if total is None else total, "pages")
        now += 0.01
    assert len(notes.said) <= 12


def test_what_came_too_soon_is_told_when_the_process_ends(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    with reporting.reporting(notes):
        for done in range(1, 4):
            progress(done, 10)
    assert notes.said == ["1 of 10 (10 %)", "3 of 10 (30 %)"]


@pytest.mark.usefixtures("report")
def test_track_yields_every_item_and_knows_how_many_there_are(notes: Notes) -> None:
    assert list(progress.track(["a", "b"], "letters")) == ["a", "b"]
    assert notes.said == ["1 of 2 letters (50 %)", "2 of 2 letters (100 %)"]
    assert list(progress.track(iter("ab"))) == ["a", "b"]
    assert list(progress.track([])) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3, None, "rows"), "3 rows"),
        ((3, None, ""), "3"),
        ((0, 0, "rows"), "0 of 0 rows"),
        ((1, 3, ""), "1 of 3 (33 %)"),
    ],
)
def test_progress_is_said_in_words(given: tuple[int, int | None, str], said: str) -> None:
    assert str(Progress(*given)) == said


def test_outside_of_a_run_nothing_is_said_and_nothing_fails() -> None:
    progress(1, 2, "rows")
    assert list(progress.track(range(3))) == [0, 1, 2]
    log_table([{"a": 1}])
    log_table([1])  # type: ignore[list-item]  # not even looked at
    log_image(b"no picture")


# --- Tables and pictures --------------------------------------------------------------------------


def test_a_table_keeps_its_first_rows(report: Report) -> None:
    log_table(({"n": n} for n in range(600)), "numbers")
    [table] = report.attachments
    assert isinstance(table, Table)
    assert (len(table.rows), table.left_out) == (500, 100)
    with pytest.raises(ReportError, match="takes dictionaries, one a row, not int"):
        log_table([1])  # type: ignore[list-item]


class Figure:
    def savefig(self, file: Any, format: str) -> None:
        assert format == "png"
        file.write(reports.PNG)


def test_a_picture_is_bytes_a_file_or_a_figure(report: Report, tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(reports.PNG)
    for image in (reports.PNG, tmp_path / "chart.png", Figure()):
        log_image(image)
    assert [each.png for each in report.attachments if isinstance(each, Image)] == 3 * [reports.PNG]


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"GIF89a", "takes a PNG"),
        ("chart.png", "takes a PNG"),
        (None, "takes a PNG"),
        (reports.PNG + bytes(2_000_000), "takes up to 2 MB; this one has 2.0"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, said: str) -> None:
    with pytest.raises(ReportError, match=said):
        log_image(image)


# --- In a run -------------------------------------------------------------------------------------


def logged(instance: DagsterInstance, run_id: str) -> dict[str, list[str]]:
    """Return what is in a run's log but Dagster's own events, by process."""
    found: dict[str, list[str]] = {}
    for entry in instance.all_logs(run_id):
        if entry.dagster_event is None:
            found.setdefault(entry.step_key or "", []).append(entry.user_message)
    return found


@pytest.mark.django_db
def test_what_processes_log_is_in_their_runs_log_each_under_its_name(
    instance: DagsterInstance,
) -> None:
    tree = ProcessTreeInstance("t").add_process("says", func=reports.says)
    tree.add_process("traced", func=reports.says_with_a_trace)
    tree.add_process("badly", func=reports.says_badly)
    tree.add_process("dagsters", func=reports.says_by_dagster)
    tree.add_process("far", func=reports.works_through).save()
    results = ProcessTreeManager.execute_tree("t")
    assert results["success"], results["errors"]
    found = logged(instance, results["run_id"])
    assert found["says"][:3] == ["fetching invoices", "a warning", "a library's warning"]
    assert found["traced"][0].startswith("no rate\nTraceback")
    assert "ValueError: the rate is gone" in found["traced"][0]
    assert "\\x00" in found["badly"][0]
    assert found["dagsters"].count("by Dagster's") == 1
    assert not any("by Dagster's" in each and each != "by Dagster's" for each in found["dagsters"])
    assert "Progress: 3 of 3 numbers (100 %)" in found["far"]


def test_a_line_whose_arguments_do_not_fit_is_logged_all_the_same() -> None:
    written: list[Any] = []
    context: Any = SimpleNamespace(
        log=SimpleNamespace(log=lambda *args: written.append(args)),
        instance=SimpleNamespace(managed_python_loggers=[]),
    )
    listener = step_logs.StepListener(context, lambda progress: None)
    listener.log(logging.LogRecord("a", logging.INFO, "", 1, "%d invoices", ("three",), None))
    said = "'%d invoices' (its arguments can't be shown: TypeError)"
    assert written == [(logging.INFO, "%s", said)]


@pytest.mark.django_db
@pytest.mark.parametrize(("level", "shown"), [(25, 20), (35, 30), (60, 50)])
def test_a_line_with_a_level_of_the_projects_own_is_shown_with_the_next_lower_one(
    instance: DagsterInstance, level: int, shown: int
) -> None:
    def says() -> None:
        reports.logger.log(level, "a notice")

    results = ProcessTreeInstance("t").add_process("says", func=says).execute()
    entries = instance.all_logs(results["run_id"])
    assert [each.level for each in entries if each.user_message == "a notice"] == [shown]
    for each in entries:  # one that it does not know would hide the whole log
        GrapheneLogLevel.from_level(each.level)  # type: ignore[no-untyped-call]


@pytest.mark.django_db
def test_a_table_and_a_picture_are_on_the_output(instance: DagsterInstance) -> None:
    ProcessTreeInstance("t").add_process("shows", func=reports.shows).save()
    results = ProcessTreeManager.execute_tree("t")
    [output] = [
        entry.dagster_event
        for entry in instance.all_logs(results["run_id"])
        if entry.dagster_event is not None and entry.dagster_event.is_successful_output
    ]
    metadata = output.event_specific_data.metadata  # type: ignore[union-attr]
    table = metadata["invoices"]
    assert isinstance(table, TableMetadataValue)
    assert [record.data for record in table.records] == [
        {"n": 1, "name": "a", "more": ""},
        {"n": "", "name": "", "more": str(2**70)},
    ]
    assert str(metadata["chart"].value).startswith("![chart](data:image/png;base64,iVBOR")


@pytest.mark.django_db
def test_a_process_with_a_timeout_is_heard_from_its_thread(instance: DagsterInstance) -> None:
    ProcessTreeInstance("t").add_process("says", func=reports.says, timeout=60).save()
    results = ProcessTreeManager.execute_tree("t")
    assert "fetching invoices" in logged(instance, results["run_id"])["says"]
