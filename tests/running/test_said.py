"""What is said of a run is true, and whatever it is can be stored and printed."""

import json
import logging
import math
from collections.abc import Iterator
from functools import wraps
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import DagsterEventType, DagsterInstance
from django.core.management import CommandError, call_command
from django.utils import translation

from proctree_dagster import triggers
from proctree_dagster.domain import run_tags
from proctree_dagster.domain.texts import explain, printable, shown, storable, storable_error
from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import SyncCheckError
from proctree_dagster.management.console import escaping, run_log
from proctree_dagster.process.run import Outcome, Process, call_with, run_process
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.process.test_process_options import metadata
from tests.tree_builder.test_command_files import command

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

pytestmark = pytest.mark.django_db

BAD = "\ud800\x00" * 33_000
"""64 KiB that no database takes."""


@pytest.fixture(autouse=True)
def functions_here(settings: Any) -> None:
    """Let trees name the functions of this module."""
    modules = [__name__, "tests.app"]
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": modules}


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(
    request: pytest.FixtureRequest, dagster_home: Path, postgres: "Postgres"
) -> Iterator[DagsterInstance]:
    """Give the test an instance on each kind of storage, whose runs keep what functions log."""
    yaml = (
        "telemetry:\n  enabled: false\n"
        "python_logs:\n  managed_python_loggers: [somebody]\n  python_log_level: INFO\n"
    )
    if request.param == "postgresql":
        database = postgres.new_database()
        url = f"postgresql+psycopg2://postgres@/{database['NAME']}?host={database['HOST']}"
        yaml += f"storage:\n  postgres:\n    postgres_url: {url}\n"
    (dagster_home / "dagster.yaml").write_text(yaml)
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


def run(process: Process, context: dict[str, Any] | None = None) -> Outcome:
    return run_process(process, context or {}, {})


class TestReasons:
    def test_what_was_skipped_says_why_and_what_failed_says_so_elsewhere(
        self, instance: DagsterInstance
    ) -> None:
        tree = ProcessTreeInstance("t")
        tree.create_trigger("silent", "event")
        tree.add_process("fresh", processes.one, outdated_check=processes.up_to_date)
        tree.add_process("gated", processes.one, trigger="silent")
        tree.add_process("fails", processes.fail)
        tree.add_process("after", processes.echo, ["fails"]).save()
        results = ProcessTreeManager.execute_tree("t")
        assert results["reasons"] == {
            "fresh": "Up to date",
            "gated": "Trigger silent is silent: it has not fired",
        }
        assert results["errors"].keys() == {"fails", "after"}
        assert metadata(instance, results["run_id"], "gated")[run_tags.REASON].startswith("Trigger")
        log = [each.user_message for each in instance.all_logs(results["run_id"])]
        assert "Process 'fresh': skipped. Up to date" in log
        out = StringIO()
        with pytest.raises(CommandError):
            call_command(command("t"), stdout=out)
        assert "skipped   fresh: Up to date" in out.getvalue()
        assert "skipped   after: Dependency failed: fails" in out.getvalue()

    @pytest.mark.parametrize(
        ("check", "said"),
        [
            (processes.cannot_tell, "Its outdated check raised OSError: the clock is away"),
            (lambda: {"outdated": False}, "Its outdated check must return a bool, not {"),
            (lambda: 0, "Its outdated check must return a bool, not 0"),
            (lambda absent: False, "Its outdated check raised ArgumentError"),
        ],
    )
    def test_an_outdated_check_without_an_answer_lets_it_run_and_it_says_so(
        self, check: Any, said: str
    ) -> None:
        outcome = run(Process(ProcessSpec("p", "f"), processes.one, outdated_check=check))
        assert outcome.status == "completed"
        assert outcome.note is not None
        assert outcome.note.startswith(said)

    def test_an_async_outdated_check_is_awaited(self) -> None:
        async def check() -> bool:
            return False

        process = Process(ProcessSpec("p", "f"), processes.one, outdated_check=check)
        assert run(process).status == "skipped"

    @pytest.mark.parametrize(
        ("validation", "said"),
        [
            (lambda result: {"valid": False}, "must return a bool or (bool, message), not {"),
            (lambda result: None, "must return a bool or (bool, message), not None"),
            (lambda result: (True, "a", "b"), "must return a bool or (bool, message), not ("),
            (lambda: True, "raised TypeError"),
        ],
    )
    def test_a_validation_that_gives_no_answer_has_not_passed(
        self, validation: Any, said: str
    ) -> None:
        process = Process(ProcessSpec("p", "f"), processes.one, validations=(validation,))
        with pytest.raises(ValueError, match="did not pass") as raised:
            run(process)
        assert said in str(raised.value)

    def test_a_skipped_process_gives_its_variables_defaults(
        self, instance: DagsterInstance
    ) -> None:
        rules = {"total": {"type": "decimal", "default": "1.50"}, "none": {}}
        tree = ProcessTreeInstance("t")
        tree.add_process(
            "p", processes.one, outdated_check=processes.up_to_date, response_vars=rules
        ).save()
        results = ProcessTreeManager.execute_tree("t")
        assert {k: str(v) for k, v in results["response_variables"]["p"].items()} == {
            "total": "1.50"
        }

    def test_so_does_one_that_a_failure_skips(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("t").add_process("p", processes.fail)
        rules = {"count": {"type": "int", "default": 0}}
        tree.add_process("q", processes.one, dependencies=["p"], response_vars=rules).save()
        results = ProcessTreeManager.execute_tree("t")
        assert results["status"] == {"p": "failed", "q": "skipped"}
        assert results["response_variables"] == {"q": {"count": 0}}


class TestSyncCheck:
    @pytest.fixture(autouse=True)
    def tree(self) -> None:
        ProcessTreeInstance("t").add_process("p", processes.noted).save()
        processes.calls.clear()

    @pytest.fixture(autouse=True)
    def nothing_ran(self) -> Iterator[None]:
        yield
        assert processes.calls == []

    @staticmethod
    async def asynchronous(name: str) -> bool:
        return True

    @pytest.mark.parametrize(
        ("check", "said"),
        [
            (lambda name: {"in_sync": False}, "for 'p' .* returned {'in_sync': False}"),
            (lambda name: None, "for 'p' .* returned None"),
            (lambda name: 1, "for 'p' .* returned 1"),
            (lambda: True, "can't be called with one name: too many positional"),
            (lambda name, other: True, "can't be called with one name: missing"),
            (asynchronous, "is async"),
            ("name", "not 'name'"),
        ],
    )
    def test_what_is_no_function_of_a_name_that_returns_a_bool_is_refused(
        self, check: Any, said: str
    ) -> None:
        with pytest.raises(SyncCheckError, match=said) as raised:
            ProcessTreeManager.execute_tree("t", sync_check_func=check, only_run_out_of_sync=True)
        assert "takes a process's name and returns a bool" in str(raised.value)

    def test_a_decorator_may_supply_what_its_function_takes_besides(self) -> None:
        def of_the_tree(name: str, organisation: str) -> bool:
            return organisation == "mine"

        @wraps(of_the_tree)
        def check(name: str, **kwargs: Any) -> bool:
            return of_the_tree(name, organisation="mine")

        ProcessTreeManager.execute_tree("t", sync_check_func=check, only_run_out_of_sync=True)

    def test_it_leaves_no_language_behind(self) -> None:
        def check(name: str) -> bool:
            translation.activate("de")
            return True

        before = translation.get_language()
        ProcessTreeManager.execute_tree("t", sync_check_func=check, only_run_out_of_sync=True)
        assert translation.get_language() == before

    def test_one_that_nobody_would_ask_is_refused(self) -> None:
        with pytest.raises(SyncCheckError, match="pass both, or leave it out"):
            ProcessTreeManager.execute_tree("t", sync_check_func=lambda name: False)


class TestCustomTriggers:
    @pytest.mark.parametrize("context", [None, {}, {"tenant": 1}])
    def test_one_with_a_context_gets_the_callers(self, context: Any) -> None:
        def check(context: Any) -> Any:
            return context

        assert call_with("The trigger", check, {**(context or {}), "fetch": 2}, context) == (
            context or {}
        )
        assert call_with("The trigger", lambda **rest: rest, {"a": 1}, {"a": 1}) == {"a": 1}

    def test_a_polled_one_gets_an_empty_one(self, instance: DagsterInstance) -> None:
        contexts_seen.clear()
        triggers.create_trigger("t", "custom", {"function": f"{__name__}:sees_context"})
        tree = ProcessTreeInstance("t").add_process("p", processes.one, trigger="t")
        tree.save()
        tree.subscribe_to_trigger("t")
        triggers.poll_triggers()
        tree.execute({"tenant": 1})
        assert contexts_seen == [{}, {"tenant": 1}]


contexts_seen: list[Any] = []


def sees_context(context: Any) -> bool:
    """Note what it is given."""
    contexts_seen.append(context)
    return False


class Bad:
    """Can't be shown, and what it says can't be stored."""

    def __repr__(self) -> str:
        return BAD


class Worse:
    """Raises wherever it can."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def deep() -> list[Any]:
    """Return what is nested too deep for everybody."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


class TestWhatCanNotBeStored:
    def test_text_is_escaped(self) -> None:
        assert storable("a\ud800\x00é") == "a\\ud800\\x00é"
        assert printable("é\ud800", "ascii") == "\\xe9\\ud800"
        assert "\x00" not in shown(Bad())
        assert shown(Worse()).startswith("<Worse that can't be shown: RuntimeError")
        assert shown(10**5000).startswith("<int that can't be shown: ValueError")
        assert explain(ValueError(BAD[:2])) == "ValueError: \\ud800\\x00"

    def test_an_error_is_replaced_only_if_it_must_be(self) -> None:
        good = ValueError("x")
        assert storable_error(good) is good
        for bad in (ValueError(BAD), caused_by(ValueError(BAD))):
            replaced = storable_error(bad)
            assert replaced is not bad
            assert str(replaced) == storable(str(replaced))

    @pytest.mark.timeout(20)
    def test_errors_that_were_raised_from_one_another_in_a_circle_are_read_once(self) -> None:
        first, second = ValueError("a"), LookupError("b\x00")
        first.__cause__, second.__cause__ = second, first
        assert "b\\x00" in str(storable_error(second))
        second.args = ("b",)
        assert storable_error(first) is first

    def test_the_run_goes_on_and_all_that_it_wrote_can_be_read(
        self, stored: DagsterInstance
    ) -> None:
        instance = stored
        tree = ProcessTreeInstance("t")
        rules: dict[str, Any] = {
            name: {} for name in ("text", "bytes", "int", "nan", "bad", "worse")
        }
        values = {"text": BAD, "bytes": b"\xff\x00", "int": 10**5000, "nan": math.nan}
        tree.add_process("text", lambda: BAD)
        tree.add_process(
            "variables", lambda: {**values, "bad": Bad(), "worse": Worse()}, response_vars=rules
        )
        tree.add_process("deep", deep)
        tree.add_process("logs", logs)
        tree.add_process("fails", fails_badly, required=False)
        tree.add_process("after", lambda **given: len(given["text"]), ["text"])
        tree.add_process("stops", fails_badly, retries=1)
        results = tree.execute()
        assert {name for name, each in results["status"].items() if each == "failed"} == {
            "fails",
            "stops",
        }
        assert results["results"]["after"] == len(BAD)
        assert results["results"]["text"] == BAD
        written = instance.all_logs(results["run_id"])
        assert any("\\ud800" in each.user_message for each in written)
        kinds = [each.dagster_event_type for each in written]
        assert DagsterEventType.STEP_UP_FOR_RETRY in kinds
        for each in written:
            for line in strings_of(json.loads(each.to_json())):
                assert storable(line) == line


def caused_by(cause: Exception) -> Exception:
    """Return an error with a cause."""
    try:
        raise ValueError("x") from cause
    except ValueError as error:
        return error


def fails_badly() -> None:
    """Raise what no database takes."""
    raise ValueError(BAD)


def logs() -> None:
    """Log what no database takes."""
    logging.getLogger("somebody").warning("said %s", BAD)


def strings_of(value: Any) -> Iterator[str]:
    """Return every text in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in [*value, *value.values()]:
            yield from strings_of(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings_of(each)


class TestCommands:
    def test_a_result_that_can_not_be_printed_is_escaped(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("naïve 名前")
        tree.add_process("surrogaté", processes.bad_text)
        tree.add_process("many digits", processes.many_digits)
        tree.add_process("worse", processes.shy)
        tree.add_process("worst", processes.exits_when_shown).save()
        raw = BytesIO()
        out = TextIOWrapper(raw, encoding="ascii", errors="strict")
        call_command(command(tree.name), stdout=out)
        out.flush()
        text = raw.getvalue().decode("ascii")
        assert 'surrogat\\xe9: "\\ud800' in text
        assert "many digits: <int that can't be shown: ValueError" in text
        assert "worse: <Shy that can't be shown" in text
        assert "worst: <Exiting that can't be shown: SystemExit: 3>" in text
        assert out.errors == "strict"

    @pytest.mark.parametrize(("func", "code"), [(processes.one, 0), (processes.fail, 1)])
    def test_nobody_reads_what_is_printed_and_the_exit_code_is_the_runs(
        self, instance: DagsterInstance, func: Any, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Closed(StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        def print_nowhere() -> None:
            raise AssertionError("the process's own output is not this stream")

        monkeypatch.setattr("proctree_dagster.management.console._print_nowhere", print_nowhere)
        ProcessTreeInstance("t").add_process("p", func).save()
        try:
            call_command(command("t"), stdout=Closed())
            assert code == 0
        except CommandError as error:
            assert error.returncode == code  # noqa: PT017

    def test_one_failure_is_two_lines_and_where_the_trace_is(
        self, instance: DagsterInstance, settings: Any
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "http://dagster"}
        ProcessTreeInstance("t").add_process("p", processes.fail).save()
        with pytest.raises(CommandError) as raised:
            call_command(command("t"), stdout=StringIO())
        [first, second, third] = str(raised.value).splitlines()
        assert first == "The process tree 't' failed:"
        assert second == "  p: ValueError: this process always fails"
        assert third.startswith("  Traceback: http://dagster/runs/")

    def test_a_failure_that_was_allowed_is_shown_with_its_reason(
        self, instance: DagsterInstance
    ) -> None:
        ProcessTreeInstance("t").add_process("p", processes.fail, required=False).save()
        out = StringIO()
        call_command(command("t"), stdout=out)
        assert "failed    p: ValueError: this process always fails" in out.getvalue()

    @pytest.mark.parametrize(("show", "traces"), [(False, 0), (True, 1)])
    def test_the_console_gets_each_trace_at_most_once(
        self,
        instance: DagsterInstance,
        capsys: pytest.CaptureFixture[str],
        show: bool,
        traces: int,
    ) -> None:
        import sys

        logger = logging.getLogger("proctree_dagster.runs")
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        try:
            with run_log(show):
                ProcessTreeInstance("t").add_process("p", processes.fail).execute()
        finally:
            logger.removeHandler(handler)
        assert capsys.readouterr().err.count('raise ValueError("this process') == traces

    def test_streams_escape_for_as_long_as_it_lasts(self) -> None:
        stream = TextIOWrapper(BytesIO(), encoding="ascii")
        with escaping(stream, stream, StringIO(), None):
            stream.write("名前\ud800")
        assert stream.errors == "strict"
