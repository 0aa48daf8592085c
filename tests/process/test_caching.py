"""Cached results: whose they are, what tells two apart, how they are passed by and cleared."""

import logging
from datetime import date
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from dagster import DagsterInstance
from django.core.cache import caches
from django.core.management import call_command
from django.db import connection

from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import CacheError, CacheKeyError, InvalidTree
from proctree_dagster.models import ProcessTree
from proctree_dagster.process import caching
from proctree_dagster.process.caching import Entry, Owner, clear, token
from proctree_dagster.process.run import Process, run_process
from proctree_dagster.running.run_options import RunOptions
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.app.models import Organisation, Ticket

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("no_calls_yet"),
    pytest.mark.filterwarnings("ignore::proctree_dagster.exceptions.UnnameableFunctionWarning"),
]

OWNER = Owner("job", "p", "app:function")


def entry(template: str, owner: Owner = OWNER, **context: Any) -> Entry:
    return Entry(owner, template, context)


def is_same(one: Entry, other: Entry) -> bool:
    caches["default"].clear()
    one.put("cached", 60)
    return other.get() == ("cached",)


def save(name: str, func: Any = processes.noted, **options: Any) -> ProcessTree:
    tree = ProcessTreeInstance(name, overwrite=True).add_process("p", func, **options)
    return tree.add_process("after", processes.echo, ["p"]).save()


def run(name: str, **options: Any) -> Any:
    results = ProcessTreeManager.execute_tree(name, **options)
    return results["status"]["p"], results["results"].get("p")


class Empty:
    """A stand-in that counts as false, as an empty mock may."""

    def __len__(self) -> int:
        return 0

    def __call__(self) -> str:
        return "stand-in"


class TestWhose:
    @pytest.mark.parametrize(
        "other",
        [
            Owner("another", "p", "app:function"),
            Owner("job", "q", "app:function"),
            Owner("job", "p", "app:another_function"),
            Owner("job", "p", "app:function", shared=True),
        ],
    )
    def test_a_result_is_its_trees_its_processes_and_its_functions_own(self, other: Owner) -> None:
        assert not is_same(entry("totals"), entry("totals", other))
        assert is_same(entry("totals"), entry("totals"))

    def test_two_trees_with_one_key_have_two_results(self, instance: DagsterInstance) -> None:
        save("a", processes.one, cache_key="totals")
        save("b", processes.two, cache_key="totals")
        assert [run("a"), run("b"), run("b")] == [
            ("completed", 1),
            ("completed", 2),
            ("cached", 2),
        ]

    def test_two_processes_of_one_tree_with_one_key_have_two_results(
        self, instance: DagsterInstance
    ) -> None:
        tree = ProcessTreeInstance("t")
        tree.add_process("a", processes.one, cache_key="k")
        tree.add_process("b", processes.two, cache_key="k").save()
        for _ in range(2):
            assert tree.execute()["results"] == {"a": 1, "b": 2}

    def test_they_share_one_if_they_say_so(self, instance: DagsterInstance) -> None:
        for name in ("a", "b"):
            save(name, cache_key="totals", shared_cache_key=True)
        assert run("a") == ("completed", {"calls": 1})
        assert run("b") == ("cached", {"calls": 1})
        with pytest.raises(InvalidTree, match="shared_cache_key needs a cache_key"):
            save("c", shared_cache_key=True)
        with pytest.raises(InvalidTree, match="shared_cache_key must be true or false"):
            save("c", cache_key="k", shared_cache_key="yes")

    def test_a_tree_that_is_renamed_keeps_its_results(self, instance: DagsterInstance) -> None:
        row = save("before", cache_key="k")
        run("before")
        row.name = "after"
        row.save()
        assert run("after") == ("cached", {"calls": 1})

    def test_another_function_does_not_get_the_result_of_the_one_before(
        self, instance: DagsterInstance
    ) -> None:
        save("t", processes.one, cache_key="k")
        run("t")
        save("t", processes.two, cache_key="k")
        assert run("t") == ("completed", 2)

    def test_a_stand_in_is_neither_given_the_real_result_nor_caches_for_it(
        self, instance: DagsterInstance
    ) -> None:
        save("t", processes.one, cache_key="k")
        for _ in range(2):
            assert run("t", func_registry={"p": lambda: "stand-in"}) == ("completed", "stand-in")
        assert run("t") == ("completed", 1)
        assert run("t", func_registry={"p": lambda: "stand-in"}) == ("completed", "stand-in")

    @pytest.mark.parametrize("name", ["p", "one", "tests.app.processes:one"])
    @pytest.mark.parametrize("stub", [lambda: "stand-in", Empty()])
    def test_a_stand_in_is_one_whatever_it_is_named_by(
        self, instance: DagsterInstance, name: str, stub: Any
    ) -> None:
        tree = ProcessTreeInstance("t").add_function("one", processes.one)
        tree.add_process("p", "one", cache_key="k").save()
        assert run("t", func_registry={name: stub}) == ("completed", "stand-in")
        assert tree.execute(functions={name: stub})["results"] == {"p": "stand-in"}
        assert run("t") == ("completed", 1)

    @pytest.mark.parametrize("name", ["p", "tests.app.processes:one", "whatever"])
    def test_the_trees_own_function_is_no_stand_in(
        self, instance: DagsterInstance, name: str
    ) -> None:
        save("t", processes.one, cache_key="k")
        assert run("t", func_registry={name: processes.one}) == ("completed", 1)
        assert run("t") == ("cached", 1)

    def test_a_stand_in_for_a_process_is_none_for_a_function_that_is_called_so(
        self, instance: DagsterInstance
    ) -> None:
        tree = ProcessTreeInstance("t").add_process("p", "registered", cache_key="k")
        tree.add_process("registered", processes.one).save()
        run("t")
        assert run("t", func_registry={"registered": lambda: 5}) == ("cached", "registered")

    def test_a_function_in_memory_is_cached_for_itself(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("t").add_process("p", lambda: 1, cache_key="k")
        other = ProcessTreeInstance("t").add_process("p", lambda: 2, cache_key="k")
        assert [each.execute()["results"]["p"] for each in (tree, other, tree)] == [1, 2, 1]
        assert tree.execute()["status"] == {"p": "cached"}

    @pytest.mark.parametrize("shared", [False, True])
    def test_what_a_stand_in_has_made_further_up_is_not_cached_for_the_real_runs(
        self, instance: DagsterInstance, shared: bool
    ) -> None:
        tree = ProcessTreeInstance("t").add_process("fetch", processes.one)
        tree.add_process("between", processes.add, ["fetch"])
        tree.add_process(
            "p", processes.add, ["between"], cache_key="k", shared_cache_key=shared
        ).save()
        stand_ins = {"fetch": lambda: 100}
        assert [run("t", func_registry=stand_ins) for _ in range(2)] == [
            ("completed", 100),
            ("cached", 100),
        ]
        assert [run("t"), run("t")] == [("completed", 1), ("cached", 1)]
        assert run("t", func_registry=stand_ins) == ("cached", 100)

    def test_another_function_further_up_makes_another_result(
        self, instance: DagsterInstance
    ) -> None:
        def with_first(func: Any) -> ProcessTreeInstance:
            tree = ProcessTreeInstance("t", overwrite=True).add_process("first", func)
            return tree.add_process("p", processes.add, ["first"], cache_key="k")

        with_first(processes.one).save()
        assert with_first(processes.two).execute()["results"]["p"] == 2  # in memory only
        assert run("t") == ("completed", 1)
        with_first(lambda: 3).save()
        assert run("t") == ("completed", 3)
        with_first(processes.two).save()
        assert run("t") == ("cached", 2)

    def test_a_result_that_only_a_stand_in_has_checked_is_not_taken_for_checked(
        self, instance: DagsterInstance
    ) -> None:
        save("t", processes.one, cache_key="k", validation=processes.is_even)
        lenient = {"tests.app.processes:is_even": lambda result: True}
        assert run("t", func_registry=lenient)[0] == "completed"
        assert run("t")[0] == "failed"

    def test_a_result_that_was_not_checked_is_none_of_a_process_that_checks(
        self, instance: DagsterInstance
    ) -> None:
        save("t", processes.one, cache_key="k")
        run("t")
        save("t", processes.one, cache_key="k", validation=processes.is_even)
        assert run("t")[0] == "failed"

    def test_what_a_test_caches_is_given_to_no_other_test_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry("k").put("of this test run", 60)
        assert entry("k").get() == ("of this test run",)
        monkeypatch.setattr(caching, "_this_process", "the test run of tomorrow")
        assert entry("k").get() is None

    def test_a_function_has_one_token_for_life(self) -> None:
        assert token(processes.one) == token(processes.one)
        assert token(processes.one) != token(processes.two)
        unhashable = type("Callable", (dict,), {"__call__": lambda self: 1})()
        assert token(unhashable) != token(unhashable)

    def test_another_database_has_results_of_its_own(self, monkeypatch: Any) -> None:
        entry("k").put("of the test database", 60)
        monkeypatch.setitem(connection.settings_dict, "NAME", "the real one")
        assert entry("k").get() is None


class TestKeys:
    @pytest.mark.parametrize(
        ("template", "one", "other"),
        [
            ("{a}{b}", {"a": "1", "b": "23"}, {"a": "12", "b": "3"}),
            ("{a}", {"a": "1"}, {"a": 1}),
            ("{a}", {"a": 1}, {"a": True}),
            ("{a}", {"a": "None"}, {"a": None}),
            ("{a}", {"a": Decimal("1.5")}, {"a": 1.5}),
            ("{a}", {"a": date(2026, 1, 1)}, {"a": "2026-01-01"}),
            ("{a}", {"a": Organisation(pk=1, name="x")}, {"a": Organisation(pk=2, name="x")}),
            ("{a}", {"a": Organisation(pk=1, name="x")}, {"a": Ticket(pk=1)}),
            ("{a}", {"a": [Organisation(pk=1)]}, {"a": [Organisation(pk=2)]}),
            ("{a}", {"a": {"b": "c"}}, {"a": str({"b": "c"})}),
        ],
    )
    def test_values_that_look_alike_are_told_apart(
        self, template: str, one: Any, other: Any
    ) -> None:
        assert is_same(entry(template, **one), entry(template, **one))
        assert not is_same(entry(template, **one), entry(template, **other))

    def test_a_row_is_the_same_whatever_it_is_called(self) -> None:
        before, after = Organisation(pk=1, name="before"), Organisation(pk=1, name="after")
        assert is_same(entry("{a}", a=before), entry("{a}", a=after))
        assert is_same(entry("{a}", a={"x": 1, "y": 2}), entry("{a}", a={"y": 2, "x": 1}))

    def test_a_format_says_what_counts(self) -> None:
        one, other = date(2026, 1, 1), date(2026, 1, 31)
        assert is_same(entry("{day:%Y-%m}", day=one), entry("{day:%Y-%m}", day=other))

    @pytest.mark.parametrize("value", ["x" * 1000, "a b\x00\n\x7f", "naïve 名前", "\ud800"])
    def test_every_backend_takes_the_key(self, value: str) -> None:
        key = entry("{value} and more", value=value)._key
        assert len(key) < 100
        assert key.isascii()
        assert key.isprintable()
        assert " " not in key

    def test_what_has_no_identity_is_refused(self) -> None:
        for value in (Organisation(name="not saved"), object()):
            with pytest.raises(CacheKeyError, match="can't be filled in"):
                entry("{a}", a=value)
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(CacheKeyError, match="holds itself"):
            entry("{a}", a=circle)


class TestPastTheCache:
    def test_no_cached_result_is_used_and_the_new_one_is_cached(
        self, instance: DagsterInstance
    ) -> None:
        save("t", cache_key="k")
        assert run("t") == ("completed", {"calls": 1})
        assert run("t", use_cache=False) == ("completed", {"calls": 2})
        assert run("t") == ("cached", {"calls": 2})
        tree = ProcessTreeManager.get_tree("t")
        assert tree.execute(options=RunOptions(use_cache=False))["results"]["p"] == {"calls": 3}

    def test_one_that_is_up_to_date_runs_as_what_follows_needs_its_result(self) -> None:
        stale = True
        spec = ProcessSpec("p", "f", cache_key="k", outdated_check="g")
        process = Process(spec, lambda: ["lines"], outdated_check=lambda: stale, job_name="job")
        assert run_process(process, {}, {}).status == "completed"
        stale = False
        assert run_process(process, {}, {}).result == ["lines"]
        past = run_process(process, {}, {}, use_cache=False)
        assert (past.status, past.result) == ("completed", ["lines"])

    def test_one_that_is_in_sync_passes_its_result_on(self, instance: DagsterInstance) -> None:
        save("t", cache_key="k")
        run("t")
        options = RunOptions(sync_check_func=lambda name: True, use_cache=False)
        found = ProcessTreeManager.get_tree("t").execute(options=options)
        assert found["results"]["p"] == {"calls": 1}

    def test_a_command_does_so_too(self, instance: DagsterInstance) -> None:
        from tests.tree_builder.test_command_files import command

        save("t", cache_key="k")
        run("t")
        out = StringIO()
        call_command(command("t"), "--no-cache", stdout=out)
        assert '"calls": 2' in out.getvalue()

    def test_clearing_a_trees_cache_clears_no_others(self, instance: DagsterInstance) -> None:
        for name in ("a", "b"):
            save(name, cache_key="k")
            run(name)
        ProcessTreeManager.clear_cache("a")
        assert [run("a")[0], run("b")[0]] == ["completed", "cached"]
        call_command("proctree", "clear-cache", "b", stdout=StringIO())
        assert [run("a")[0], run("b")[0]] == ["cached", "completed"]

    def test_clearing_clears_what_is_shared(self, instance: DagsterInstance) -> None:
        for name in ("a", "b"):
            save(name, cache_key="k", shared_cache_key=True)
        run("a")
        ProcessTreeManager.clear_cache("b")
        assert run("a")[0] == "completed"

    def test_what_was_cleared_while_a_process_ran_stays_cleared(self) -> None:
        entry("k").put("old", 60)
        running = entry("k")
        running.get()
        clear("job")
        running.put("computed before it was cleared", 60)
        assert entry("k").get() is None

    def test_what_was_cleared_while_a_process_ran_past_the_cache_stays_cleared(
        self, instance: DagsterInstance
    ) -> None:
        def clearing() -> int:
            ProcessTreeManager.clear_cache("t")
            return 1

        save("t", clearing, cache_key="k")
        assert run("t", use_cache=False) == ("completed", 1)
        assert run("t") == ("completed", 1)

    def test_a_generation_that_the_cache_has_lost_brings_nothing_back(self) -> None:
        entry("k").put("old", 60)
        caches["default"].delete(entry("k")._generation_key)
        assert entry("k").get() is None
        entry("another").put("new", 60)
        assert entry("k").get() is None

    def test_a_cache_that_can_not_be_cleared_is_an_error(self, settings: Any) -> None:
        settings.CACHES = {
            **settings.CACHES,
            "away": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "redis://127.0.0.1:1",
            },
        }
        settings.PROCTREE = {**settings.PROCTREE, "CACHE": "away"}
        with pytest.raises(CacheError, match="can't be cleared"):
            clear("job")


class TestAHit:
    @pytest.mark.parametrize("func", [processes.noted, processes.noted_nothing])
    def test_it_is_passed_on_whatever_the_outdated_check_says(
        self, instance: DagsterInstance, func: Any
    ) -> None:
        save("t", func, cache_key="k")
        ProcessTreeManager.execute_tree("t")
        save("t", func, cache_key="k", outdated_check=processes.up_to_date)
        results = ProcessTreeManager.execute_tree("t")
        assert results["status"] == {"p": "cached", "after": "completed"}
        assert results["results"]["after"] == {"p": results["results"]["p"]}
        assert len(processes.calls) == 1

    def test_it_is_passed_on_without_asking_the_trigger(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("t")
        trigger = tree.create_trigger("never", "event")
        tree.add_process("p", processes.one, cache_key="k").save()
        tree.execute()
        tree.add_trigger_to_process("p", trigger).save()
        assert tree.execute()["status"] == {"p": "cached"}

    def test_in_sync_it_is_passed_on_with_its_variables(self, instance: DagsterInstance) -> None:
        save("t", cache_key="k", response_vars={"calls": {}})
        run("t")
        results = ProcessTreeManager.execute_tree(
            "t", only_run_out_of_sync=True, sync_check_func=lambda name: name == "p"
        )
        assert results["status"]["p"] == "cached"
        assert results["reasons"] == {"p": "In sync"}
        assert results["response_variables"]["p"] == {"calls": 1}


def test_a_key_that_can_not_be_filled_in_says_nothing_of_the_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(CacheKeyError) as raised:
        entry("{a.b}", a="sentinel")
    assert "sentinel" not in str(raised.value) + caplog.text
