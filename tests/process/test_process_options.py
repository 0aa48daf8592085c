"""What a process can say of itself: required, up to date, cached, checked, retried, limited."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.execution.retries import RetryMode
from django.db import transaction

from proctree_dagster.domain import run_tags
from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import InvalidTree, ProctreeError
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration.execution import op_functions
from proctree_dagster.running.results import Results
from proctree_dagster.services.system_checks import check_cache
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import (
    ProcessTreeBuilder,
    ProcessTreeInstance,
    ProcessTreeManager,
)
from tests.app import processes
from tests.app.models import Organisation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_calls_yet")]


def execute(context: dict[str, Any] | None = None, **process_options: Any) -> Results:
    """Run a tree of one process, and one behind it that shows what it is given."""
    name = "tree"
    func = process_options.pop("func", processes.noted)
    (
        ProcessTreeInstance(name, overwrite=True)
        .add_process("first", func=func, **process_options)
        .add_process("behind", func=processes.echo, dependencies=["first"], required=False)
        .save()
    )
    return ProcessTreeManager.execute_tree(name, context=context)


def metadata(instance: DagsterInstance, run_id: str, step: str) -> dict[str, Any]:
    """Return what the UI shows of a process's output."""
    events = instance.all_logs(run_id, of_type=DagsterEventType.STEP_OUTPUT)
    [data] = [
        event.dagster_event.step_output_data
        for event in events
        if event.step_key == step and event.dagster_event is not None
    ]
    return {key: value.value for key, value in data.metadata.items()}


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


class TestRequired:
    def test_a_process_that_may_fail_is_plainly_marked_and_the_run_goes_on(
        self, instance: DagsterInstance
    ) -> None:
        results = execute(func=processes.fail, required=False)
        run_id = results["run_id"]
        assert results["success"]
        assert results["status"] == {"first": "failed", "behind": "completed"}
        assert results["errors"] == {"first": "ValueError: this process always fails"}
        assert results["results"] == {"behind": {}}
        assert status(instance, run_id) == DagsterRunStatus.SUCCESS
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.tags[run_tags.FAILED_OPTIONAL] == "first"
        shown = metadata(instance, run_id, "first")
        assert shown[run_tags.STATUS] == "failed"
        assert shown[run_tags.REASON] == "ValueError: this process always fails"
        [error] = [each for each in instance.all_logs(run_id) if each.level == logging.ERROR]
        assert "Process 'first' failed. It is not required" in error.user_message
        assert "Traceback" in error.user_message
        assert "ValueError: this process always fails" in error.user_message

    def test_a_process_that_a_required_one_depends_on_is_required_in_effect(
        self, instance: DagsterInstance
    ) -> None:
        (
            ProcessTreeInstance("tree")
            .add_process("far", func=processes.fail, required=False)
            .add_process("near", func=processes.echo, dependencies=["far"], required=False)
            .add_process("needed", func=processes.echo, dependencies=["near"])
            .save()
        )
        results = ProcessTreeManager.execute_tree("tree")
        assert not results["success"]
        assert results["status"] == {"far": "failed", "near": "skipped", "needed": "skipped"}
        assert status(instance, results["run_id"]) == DagsterRunStatus.FAILURE

    def test_what_may_fail_raises_until_its_retries_are_spent(
        self, instance: DagsterInstance
    ) -> None:
        results = execute(
            {"times": 2}, func=processes.flaky, required=False, retries=1, retry_delay=0
        )
        assert processes.calls == ["flaky", "flaky"]
        assert results["success"]
        assert results["errors"] == {"first": "ConnectionError: try 2"}

    def test_sys_exit_is_a_failure_like_any_other(self) -> None:
        results = execute(func=processes.exits, required=False, retries=1, retry_delay=0)
        assert results["success"]
        assert results["status"] == {"first": "failed", "behind": "completed"}
        assert results["errors"] == {"first": "FunctionExited: exits called sys.exit(3)."}

    def test_an_outdated_check_or_a_validation_that_exits_is_one_that_raises(self) -> None:
        checked = execute(outdated_check=processes.exits)
        assert checked["status"]["first"] == "completed"
        validated = execute(func=processes.one, validation=processes.leaves, required=False)
        assert "called sys.exit(3)" in validated["errors"]["first"]

    @pytest.mark.parametrize("mode", RetryMode)
    def test_where_the_launchpad_has_switched_retries_off_the_first_try_is_the_last(
        self, mode: RetryMode
    ) -> None:
        step = SimpleNamespace(retry_mode=mode)
        context: Any = SimpleNamespace(get_step_execution_context=lambda: step, retry_number=0)
        process: Any = SimpleNamespace(spec=ProcessSpec("first", "f", retries=1))
        tried_again = op_functions._is_tried_again(context, process)
        assert tried_again is (mode != RetryMode.DISABLED)


class TestOutdatedCheck:
    @pytest.mark.parametrize(
        ("check", "expected"),
        [
            (processes.up_to_date, "skipped"),
            ("tests.app.processes:up_to_date", "skipped"),
            (processes.out_of_date, "completed"),
            (processes.cannot_tell, "completed"),
            (processes.nothing, "completed"),
        ],
    )
    def test_false_skips_the_process_and_those_after_it_still_run(
        self, instance: DagsterInstance, check: Any, expected: str
    ) -> None:
        results = execute(outdated_check=check)
        assert results["success"]
        assert results["status"] == {"first": expected, "behind": "completed"}
        assert results["errors"] == {}
        assert ("first" in results["results"]["behind"]) is (expected == "completed")
        assert len(processes.calls) == (0 if expected == "skipped" else 1)
        assert metadata(instance, results["run_id"], "first")[run_tags.STATUS] == expected

    def test_one_that_is_up_to_date_says_so(self, instance: DagsterInstance) -> None:
        results = execute(outdated_check=processes.up_to_date)
        assert metadata(instance, results["run_id"], "first")[run_tags.REASON] == "Up to date"

    def test_one_that_raises_is_logged(
        self, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR):
            execute(outdated_check=processes.cannot_tell)
        assert "the clock is away" in caplog.text


class TestCaching:
    def test_a_hit_does_not_call_the_function_and_says_so(self, instance: DagsterInstance) -> None:
        first = execute({"tenant": 7}, cache_key="journals-{tenant}", cache_ttl=60)
        again = execute({"tenant": 7}, cache_key="journals-{tenant}", cache_ttl=60)
        other = execute({"tenant": 8}, cache_key="journals-{tenant}", cache_ttl=60)
        assert [each["status"]["first"] for each in (first, again, other)] == [
            "completed",
            "cached",
            "completed",
        ]
        assert again["results"]["first"] == first["results"]["first"]
        assert again["results"]["behind"]["first"] == first["results"]["first"]
        assert again["cached"] == {"first": True, "behind": False}
        assert len(processes.calls) == 2
        assert metadata(instance, again["run_id"], "first")[run_tags.STATUS] == "cached"

    def test_a_cached_none_is_a_hit(self, instance: DagsterInstance) -> None:
        for expected in ("completed", "cached"):
            results = execute(func=processes.noted_nothing, cache_key="nothing")
            assert results["status"]["first"] == expected
            assert results["results"]["behind"] == {"first": None}
        assert len(processes.calls) == 1

    def test_a_key_that_names_a_missing_field_fails_clearly(
        self, instance: DagsterInstance
    ) -> None:
        results = execute({"a": 1}, cache_key="journals-{tenant}")
        assert results["status"]["first"] == "failed"
        assert "names a field that the context lacks ('tenant')" in results["errors"]["first"]
        assert "the context has 'a'" in results["errors"]["first"]
        assert processes.calls == []

    def test_a_tree_may_switch_its_caching_off(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("tree", cache_enabled=False)
        tree.add_process("first", func=processes.noted, cache_key="k").save()
        for _ in range(2):
            assert tree.execute()["status"] == {"first": "completed"}

    def test_a_broken_cache_costs_a_warning_not_the_run(
        self,
        instance: DagsterInstance,
        settings: Any,
        caplog: pytest.LogCaptureFixture,
        tmp_path: Any,
    ) -> None:
        settings.CACHES = {
            **settings.CACHES,
            "away": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "redis://127.0.0.1:1",
            },
        }
        settings.PROCTREE = {**settings.PROCTREE, "CACHE": "away"}
        with caplog.at_level(logging.WARNING):
            results = execute(cache_key="k")
        assert results["status"]["first"] == "completed"
        assert "The cache can't be read" in caplog.text
        assert "could not be cached" in caplog.text

    def test_a_result_that_does_not_pass_its_checks_is_not_cached(
        self, instance: DagsterInstance
    ) -> None:
        for _ in range(2):
            results = execute(
                func=processes.one, validation=processes.is_even, cache_key="k", cache_ttl=60
            )
            assert results["status"]["first"] == "failed"

    @pytest.mark.parametrize(
        ("backend", "warned"),
        [
            ("django.core.cache.backends.locmem.LocMemCache", True),
            ("django.core.cache.backends.dummy.DummyCache", True),
            ("django.core.cache.backends.db.DatabaseCache", False),
        ],
    )
    def test_a_check_warns_of_keys_in_a_cache_that_dies_with_its_process(
        self, settings: Any, backend: str, warned: bool
    ) -> None:
        settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "x"}}
        assert check_cache(None, databases=["default"]) == []
        tree = ProcessTreeInstance("tree").add_process("first", processes.noted, cache_key="k")
        tree.save()
        odd_ones: list[Any] = [5, [5], [[]], "cache_key"]
        for odd in odd_ones:  # keeps the check from no other tree
            ProcessTree.objects.create(name=f"a {odd}", processes=odd)
        found = [message.id for message in check_cache(None, databases=["default"])]
        assert found == (["proctree_dagster.W002"] if warned else [])
        assert check_cache(None) == []

    def test_a_check_reports_a_cache_that_there_is_not(self, settings: Any) -> None:
        settings.PROCTREE = {"CACHE": "nowhere"}
        [message] = check_cache(None, databases=["default"])
        assert message.id == "proctree_dagster.E004"


class TestValidation:
    def test_a_result_that_passes_is_passed_on(self, instance: DagsterInstance) -> None:
        results = execute(func=processes.two, validation=[processes.is_positive, processes.is_even])
        assert results["success"]

    def test_several_problems_are_not_hidden_by_the_first(self, instance: DagsterInstance) -> None:
        results = execute(
            func=processes.one,
            validation=[processes.is_even, processes.is_positive, processes.raises],
        )
        assert results["status"]["first"] == "failed"
        error = results["errors"]["first"]
        assert "is_even: 1 is odd" in error
        assert "raises raised LookupError: no such ledger" in error
        assert "is_positive" not in error

    def test_a_plain_false_names_the_check(self, instance: DagsterInstance) -> None:
        results = execute(func=processes.zero, validation=processes.is_positive)
        assert "is_positive said no" in results["errors"]["first"]


class TestRetriesAndLimits:
    def test_a_failed_process_is_tried_again(self, instance: DagsterInstance) -> None:
        results = execute({"times": 2}, func=processes.flaky, retries=2, retry_delay=0)
        assert results["success"]
        assert results["results"]["first"] == "after 3"
        assert results["errors"] == {}
        events = instance.all_logs(results["run_id"], of_type=DagsterEventType.STEP_UP_FOR_RETRY)
        assert len(events) == 2

    def test_retries_that_are_spent_fail_the_process(self, instance: DagsterInstance) -> None:
        results = execute({"times": 5}, func=processes.flaky, retries=1)
        assert not results["success"]
        assert results["errors"]["first"] == "ConnectionError: try 2"

    def test_a_process_that_takes_too_long_fails_and_the_run_goes_on(
        self, instance: DagsterInstance
    ) -> None:
        before = time.monotonic()
        results = execute({"seconds": 30}, func=processes.pause, timeout=0.2, required=False)
        assert time.monotonic() - before < 20
        assert results["status"] == {"first": "failed", "behind": "completed"}
        assert "longer than its timeout of 0.2 seconds" in results["errors"]["first"]

    def test_one_that_is_in_time_returns_its_result_or_raises_its_error(
        self, instance: DagsterInstance
    ) -> None:
        assert execute(func=processes.one, timeout=30)["results"]["first"] == 1
        failed = execute(func=processes.fail, timeout=30)
        assert failed["errors"]["first"] == "ValueError: this process always fails"


class TestResponseVariables:
    def test_they_are_extracted_typed_shown_and_returned(self, instance: DagsterInstance) -> None:
        results = execute(
            {"total": "12.50", "nested": {"count": "3"}},
            func=processes.echo,
            response_vars={
                "total": {"type": "decimal"},
                "how_many": {"type": "int", "key": "nested.count"},
                "currency": {"default": "ZAR"},
            },
        )
        variables = results["response_variables"]["first"]
        assert {name: str(value) for name, value in variables.items()} == {
            "total": "12.50",
            "how_many": "3",
            "currency": "ZAR",
        }
        shown = metadata(instance, results["run_id"], "first")
        assert shown[f"{run_tags.RESPONSE}/how_many"] == 3
        assert shown[f"{run_tags.RESPONSE}/currency"] == "ZAR"

    @pytest.mark.parametrize(
        ("rule", "context", "reason"),
        [
            ({"type": "int"}, {"v": "many"}, "'v' is 'many', which is no int"),
            ({"type": "int"}, {}, "has no 'v' for the response variable 'v'"),
            ({"type": "date"}, {"v": "soon"}, "which is no date"),
            ({"type": "bool"}, {"v": "perhaps"}, "which is no bool"),
        ],
    )
    def test_one_that_can_not_be_extracted_fails_the_process(
        self, instance: DagsterInstance, rule: Any, context: Any, reason: str
    ) -> None:
        results = execute(context, func=processes.echo, response_vars={"v": rule})
        assert results["status"]["first"] == "failed"
        assert reason in results["errors"]["first"]


class TestResults:
    def test_a_result_that_can_not_be_pickled_is_shown_but_not_stored(
        self, instance: DagsterInstance
    ) -> None:
        ProcessTreeInstance("tree").add_process("lock", func=processes.unpicklable).save()
        results = ProcessTreeManager.execute_tree("tree")
        assert results["success"]
        assert type(results["results"]["lock"]).__name__ == "lock"
        assert "lock object" in metadata(instance, results["run_id"], "lock")[run_tags.RESULT]

    @pytest.mark.parametrize("required", [True, False])
    def test_nor_is_a_response_variable_that_can_not_and_the_function_is_called_once(
        self, instance: DagsterInstance, required: bool
    ) -> None:
        calls: list[int] = []

        def read() -> dict[str, Any]:
            calls.append(1)
            return {"names": {"a": 1}.keys(), "count": 1}

        variables: dict[str, Any] = {"names": {}, "count": {"type": "int"}}
        tree = ProcessTreeInstance("tree")
        tree.add_process("read", read, required=required, retries=2, response_vars=variables)
        results = tree.execute()
        assert results["success"]
        assert len(calls) == 1
        log = " ".join(each.user_message for each in instance.all_logs(results["run_id"]))
        assert "can't be pickled either, and are not stored: names." in log

    @pytest.mark.parametrize("required", [True, False])
    def test_one_that_can_be_pickled_and_not_read_fails_what_depends_on_it(
        self, instance: DagsterInstance, required: bool
    ) -> None:
        tree = ProcessTreeInstance("tree").add_process("first", func=processes.not_read_again)
        tree.add_process("behind", processes.echo, ["first"], required=required).save()
        results = ProcessTreeManager.execute_tree("tree")
        assert results["success"] is not required
        assert results["status"] == {"first": "completed", "behind": "failed"}
        assert results["errors"]["behind"].startswith(
            "ResultNotStored: The result of process 'first' can't be read: TypeError: "
        )

    def test_it_is_an_error_that_names_the_process_only_if_something_depends_on_it(
        self, instance: DagsterInstance
    ) -> None:
        results = execute(func=processes.unpicklable)
        assert results["status"] == {"first": "completed", "behind": "failed"}
        assert "The result of process 'first' was not stored" in results["errors"]["behind"]
        assert "cannot pickle" in results["errors"]["behind"]

    def test_a_result_and_an_error_that_can_not_be_shown_are_told_all_the_same(
        self, instance: DagsterInstance
    ) -> None:
        shy = execute(func=processes.shy)
        assert shy["status"]["first"] == "completed"
        assert "can't be shown" in metadata(instance, shy["run_id"], "first")[run_tags.RESULT]
        mute = execute(func=processes.fails_mutely)
        assert mute["status"]["first"] == "failed"
        assert mute["errors"]["first"] == "Mute: (its message can't be shown)"

    def test_a_large_result_is_passed_on(self, instance: DagsterInstance) -> None:
        (
            ProcessTreeInstance("tree")
            .add_process("large", func=processes.large)
            .add_process("size", func=processes.size_of, dependencies=["large"])
            .save()
        )
        results = ProcessTreeManager.execute_tree("tree")
        assert results["results"]["size"] == 50_000_000
        assert len(metadata(instance, results["run_id"], "large")[run_tags.RESULT]) < 2000


def diamond() -> ProcessTreeInstance:
    return (
        ProcessTreeInstance("diamond", overwrite=True)
        .add_process("top", func=processes.noted)
        .add_process("left", func=processes.fail, dependencies=["top"])
        .add_process("right", func=processes.echo, dependencies=["top"])
        .add_process("bottom", func=processes.echo, dependencies=["left", "right"])
    )


class TestExecuteTree:
    def test_without_stop_on_error_what_is_behind_a_failure_runs_and_the_run_fails(
        self, instance: DagsterInstance
    ) -> None:
        diamond().save()
        results = ProcessTreeManager.execute_tree("diamond", stop_on_error=False)
        assert not results["success"]
        assert results["status"] == {
            "top": "completed",
            "left": "failed",
            "right": "completed",
            "bottom": "completed",
        }
        assert set(results["results"]["bottom"]) == {"right"}
        assert status(instance, results["run_id"]) == DagsterRunStatus.FAILURE

    @pytest.mark.parametrize(
        ("stale", "ran"),
        [
            ({"right"}, {"right", "bottom"}),
            ({"top"}, {"top", "left", "right", "bottom"}),
            ({"bottom"}, {"bottom"}),
            (set(), set()),
        ],
    )
    def test_only_what_is_out_of_sync_runs_and_all_that_depends_on_it(
        self, instance: DagsterInstance, stale: set[str], ran: set[str]
    ) -> None:
        tree = diamond().remove_process("left")
        tree.add_process("left", func=processes.echo, dependencies=["top"]).save()
        results = ProcessTreeManager.execute_tree(
            "diamond",
            sync_check_func=lambda name: name not in stale,
            only_run_out_of_sync=True,
        )
        assert results["success"]
        assert {name for name, each in results["status"].items() if each == "completed"} == ran
        assert {name for name, each in results["status"].items() if each == "skipped"} == {
            "top",
            "left",
            "right",
            "bottom",
        } - ran
        assert results["errors"] == {}

    def test_what_is_in_sync_gives_its_cached_result(self, instance: DagsterInstance) -> None:
        (
            ProcessTreeInstance("tree")
            .add_process("first", func=processes.noted, cache_key="first")
            .add_process("second", func=processes.echo, dependencies=["first"])
            .save()
        )
        ProcessTreeManager.execute_tree("tree")
        results = ProcessTreeManager.execute_tree(
            "tree", sync_check_func=lambda name: name == "first", only_run_out_of_sync=True
        )
        assert results["status"] == {"first": "cached", "second": "completed"}
        assert results["results"]["second"] == {"first": {"calls": 1}}

    def test_only_run_out_of_sync_needs_somebody_to_say_what_is(self) -> None:
        diamond().save()
        with pytest.raises(ProctreeError, match="needs sync_check_func"):
            ProcessTreeManager.execute_tree("diamond", only_run_out_of_sync=True)


class TestBuilder:
    def test_it_writes_a_tree_in_one_expression(self) -> None:
        row = (
            ProcessTreeBuilder("built", "One and two.")
            .add("one", processes.one)
            .add("two", processes.add, dependencies=["one"], retries=1)
            .save()
        )
        assert [process["name"] for process in row.processes] == ["one", "two"]

    def test_build_returns_the_tree_or_all_of_its_problems(self) -> None:
        assert ProcessTreeBuilder("built").add("one", processes.one).build().has_process("one")
        with pytest.raises(InvalidTree, match="depends on 'nowhere'"):
            ProcessTreeBuilder("bad").add("one", processes.one, ["nowhere"]).build()


class TestPools:
    def test_the_sizes_of_pools_are_set_on_the_instance(
        self, instance: DagsterInstance, settings: Any
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "POOLS": {"xero": 5}}
        results = execute(func=processes.one, pool="xero")
        assert results["success"]
        [pool] = instance.event_log_storage.get_pool_limits()
        assert (pool.name, pool.limit) == ("xero", 5)
        settings.PROCTREE = {**settings.PROCTREE, "POOLS": {"xero": 2}}
        execute(func=processes.one, pool="xero")
        [pool] = instance.event_log_storage.get_pool_limits()
        assert pool.limit == 2


class TestRunTree:
    def test_a_tree_runs_in_memory_and_leaves_no_trace(self, instance: DagsterInstance) -> None:
        diamond().save()
        results = run_tree("diamond", {"a": 1}, functions={"left": lambda: "stand-in"})
        assert results["success"]
        assert results["results"]["left"] == "stand-in"
        assert instance.get_runs() == []

    def test_a_tree_that_is_not_saved_runs_too(self) -> None:
        tree = ProcessTreeInstance("unsaved").add_process("x", func=lambda a: a + 1)
        assert run_tree(tree, {"a": 1})["results"] == {"x": 2}

    def test_it_sees_the_transaction_of_the_test(self) -> None:
        with transaction.atomic():
            organisation = Organisation.objects.create(name="not committed")
            tree = ProcessTreeInstance("tree").add_process("seen", func=processes.echo)
            results = run_tree(tree, {"organisation": organisation})
            assert results["results"]["seen"]["organisation"].name == "not committed"
            assert Organisation.objects.count() == 1
