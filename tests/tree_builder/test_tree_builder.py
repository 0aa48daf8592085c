"""Writing and saving trees: what is accepted, what is refused, and that nothing is lost."""

import datetime as dt
import os
import warnings
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db.models.signals import post_save

from proctree_dagster.exceptions import (
    ContextError,
    FunctionNotNameable,
    InvalidTree,
    ProctreeError,
    ScheduleError,
    TreeExists,
    TreeNotFound,
    TreeNotSaved,
    UnnameableFunctionWarning,
)
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.app.models import Organisation

pytestmark = pytest.mark.django_db


def tree(name: str = "sync") -> ProcessTreeInstance:
    return (
        ProcessTreeInstance(name, "Synchronises.", overwrite=True)
        .add_process("first", func=processes.one)
        .add_process("second", func=processes.add, dependencies=["first"], retries=2)
    )


class TestSaving:
    def test_a_saved_tree_names_its_functions_by_reference(self) -> None:
        row = tree().save()
        assert row.name == row.job_name == "sync"
        assert row.processes == [
            {"name": "first", "func": "tests.app.processes:one"},
            {
                "name": "second",
                "func": "tests.app.processes:add",
                "dependencies": ["first"],
                "retries": 2,
            },
        ]

    def test_an_existing_name_raises_unless_it_is_to_be_overwritten(self) -> None:
        tree().save()
        with pytest.raises(TreeExists, match="'sync' exists already; pass overwrite=True"):
            ProcessTreeInstance("sync")
        ProcessTreeInstance("sync", overwrite=True)

    def test_a_name_that_was_taken_meanwhile_raises_when_saved(self) -> None:
        late = ProcessTreeInstance("sync").add_process("first", func=processes.one)
        tree().save()
        with pytest.raises(TreeExists):
            late.save()

    def test_overwriting_keeps_the_row_its_job_name_and_its_schedule(self) -> None:
        first = tree()
        row = first.save()
        schedule = first.register_schedule(interval_minutes=30)
        again = ProcessTreeInstance("sync", overwrite=True).add_process("only", func=processes.one)
        new = again.save()
        assert (new.pk, new.job_name) == (row.pk, row.job_name)
        assert [process["name"] for process in new.processes] == ["only"]
        assert ProcessTreeSchedule.objects.get(process_tree=new).pk == schedule.pk

    def test_a_renamed_tree_keeps_its_job_name_and_leaves_the_name_to_another(self) -> None:
        row = tree().save()
        row.name = "renamed"
        row.save()
        other = tree().save()
        assert row.job_name == "sync"
        assert other.job_name not in ("sync", "renamed")
        assert other.job_name.startswith("sync_2_")

    def test_saving_what_is_saved_already_writes_nothing(self) -> None:
        before = tree().save().updated_at
        tree().save()
        assert ProcessTree.objects.get(name="sync").updated_at == before

    def test_builders_chain_and_change_the_tree(self) -> None:
        changed = (
            tree()
            .set_description("Another.")
            .set_cache_enabled(False)
            .add_validation("second", processes.optional)
            .remove_process("first")
        )
        assert changed.has_process("second")
        assert not changed.has_process("first")
        with pytest.raises(InvalidTree, match="depends on 'first', which is not in the tree"):
            changed.save()
        data = changed.add_process("first", func=processes.two).to_dict()
        assert (data["description"], data["cache_enabled"]) == ("Another.", False)
        assert data["processes"][0]["validation"] == ["tests.app.processes:optional"]

    def test_a_process_that_is_not_there_is_an_error_that_names_those_that_are(self) -> None:
        with pytest.raises(ProctreeError, match="no process 'third'; it has 'first', 'second'"):
            tree().get_process("third")

    def test_a_loaded_tree_is_the_saved_one(self) -> None:
        saved = tree()
        saved.save()
        loaded = ProcessTreeManager.get_tree("sync")
        assert loaded.to_dict() == saved.to_dict()
        assert loaded.get_process("second").retries == 2
        loaded.add_process("third", func=processes.two).save()
        assert len(ProcessTree.objects.get(name="sync").processes) == 3

    def test_an_unknown_tree_is_an_error_that_names_it(self) -> None:
        with pytest.raises(TreeNotFound, match="no process tree called 'nowhere'"):
            ProcessTreeManager.get_tree("nowhere")

    def test_a_function_may_be_named_instead_of_given(self) -> None:
        row = (
            ProcessTreeInstance("named")
            .add_function("my_key", processes.one)
            .add_process("by_key", func="registered")
            .add_process("by_reference", func="tests.app.processes:one")
            .add_process("by_own_key", func="my_key")
            .save()
        )
        assert [process["func"] for process in row.processes] == [
            "registered",
            "tests.app.processes:one",
            "tests.app.processes:one",
        ]

    def test_what_is_given_is_taken_as_it_is_then(self) -> None:
        names: list[str] = []
        rule = {"type": "int"}
        tree = ProcessTreeInstance("t").add_process("a", processes.one, names)
        names.append("a")
        tree.add_process("b", processes.one, names, response_vars={"x": rule})
        names.append("b")
        rule["type"] = "str"
        tree.add_process("c", processes.one, names)
        names.clear()
        saved = tree.save().processes
        assert [each.get("dependencies", []) for each in saved] == [[], ["a"], ["a", "b"]]
        assert saved[1]["response_vars"] == {"x": {"type": "int"}}

    def test_a_validation_may_be_named_as_a_function_may(self) -> None:
        reference = "tests.app.processes:is_positive"
        tree = ProcessTreeInstance("t").add_process("a", processes.one, validation=reference)
        tree.add_process("b", processes.one, validation=[reference, processes.is_even])
        assert [each["validation"] for each in tree.save().processes] == [
            [reference],
            [reference, "tests.app.processes:is_even"],
        ]


class TestProblems:
    def test_every_problem_of_a_tree_is_reported_at_once_and_nothing_is_saved(self) -> None:
        bad = (
            ProcessTreeInstance("bad")
            .add_process("a", func=processes.one, dependencies=["b"])
            .add_process("b", func=processes.one, dependencies=["a"])
            .add_process("c", func=processes.one, dependencies=["nowhere"])
            .add_process("c", func=os.system)
            .add_process("", func=processes.one)
            .add_process("d" * 201, func=processes.one, timeout=-1)
            .add_process("e", func="no_such_key")
            .add_process("f", func=42)  # type: ignore[arg-type]
        )
        with pytest.raises(InvalidTree) as caught:
            bad.save()
        text = str(caught.value)
        for expected in [
            "circle: 'a' → 'b' → 'a'",
            "'c' depends on 'nowhere'",
            "2 processes have the name 'c'",
            "'posix:system' is not allowed",
            "not empty",
            "201 characters long",
            "timeout must be seconds above 0",
            "key 'no_such_key'",
            "42 is no function",
        ]:
            assert expected in text, f"{expected!r} is missing from\n{text}"
        assert not ProcessTree.objects.exists()

    def test_the_models_clean_reports_the_same_problems(self) -> None:
        row = ProcessTree(
            name="from the admin",
            processes=[
                {"name": "a", "func": "os:system"},
                {"name": "b", "func": "tests.app.processes:gone", "dependencies": ["x"]},
            ],
        )
        with pytest.raises(ValidationError) as caught:
            row.full_clean()
        text = " ".join(caught.value.message_dict["processes"])
        assert "'os:system' is not allowed" in text
        assert "'tests.app.processes:gone' names nothing" in text
        assert "'b' depends on 'x'" in text

    @pytest.mark.parametrize("processes_field", [None, {}, "text", [1, "x"], [{}], [{"name": 3}]])
    def test_the_models_clean_takes_whatever_was_typed(self, processes_field: Any) -> None:
        with pytest.raises(ValidationError):
            ProcessTree(name="typed", processes=processes_field).full_clean()

    def test_names_that_dagster_refuses_are_welcome(self) -> None:
        names = ["context", "class", "naïve step!", "a b", "a-b", 'quo"te', "new\nline", "{brace}"]
        odd = ProcessTreeInstance('it\'s a "tree"\n{with} %s everything')
        for name in names:
            odd.add_process(name, func=processes.one)
        row = odd.save()
        assert [process["name"] for process in row.processes] == names
        assert row.job_name.isascii()
        assert row.job_name.isidentifier()


def nested() -> Any:
    def inner() -> int:
        return 5

    return inner


class TestUnnameableFunctions:
    @pytest.mark.parametrize(
        ("func", "why"),
        [
            (lambda: 1, "is a lambda"),
            (nested(), "is nested in another function"),
            (partial(processes.echo, a=1), "is a partial"),
            (processes.Methods().bound, "something else under that name"),
        ],
    )
    def test_saving_warns_and_names_the_process_and_what_to_do(self, func: Any, why: str) -> None:
        mine = ProcessTreeInstance("mine").add_process("secret", func=func)
        with pytest.warns(UnnameableFunctionWarning, match="Process 'secret'") as caught:
            mine.save()
        text = str(caught[0].message)
        assert why in text
        assert "Move it to the top level of a module" in text
        with pytest.raises(FunctionNotNameable, match="can't be scheduled"):
            mine.register_schedule()
        with pytest.raises(FunctionNotNameable, match="can't be run by a command"):
            mine.create_command()
        with pytest.raises(InvalidTree):
            ProcessTreeManager.submit_tree("mine")

    def test_static_and_class_methods_are_named_by_their_qualname(self) -> None:
        row = (
            ProcessTreeInstance("methods")
            .add_process("static", func=processes.Methods.static)
            .add_process("of_class", func=processes.Methods.of_class)
            .save()
        )
        assert [process["func"] for process in row.processes] == [
            "tests.app.processes:Methods.static",
            "tests.app.processes:Methods.of_class",
        ]


class TestRegisteringASchedule:
    def test_the_tree_must_be_saved_first(self) -> None:
        with pytest.raises(TreeNotSaved, match=r"call save\(\) first"):
            tree().register_schedule()

    def test_the_guides_arguments_reach_the_row(self) -> None:
        organisation = Organisation.objects.create(name="Acme")
        mine = tree()
        mine.save()
        schedule = mine.register_schedule(
            interval_minutes=30,
            start_time=dt.time(9, 0),
            enabled=True,
            context={"organisation": organisation},
        )
        stored = ProcessTreeSchedule.objects.get(pk=schedule.pk)
        assert (stored.interval_minutes, stored.start_time) == (30, dt.time(9, 0))
        assert stored.enabled
        assert stored.context == {
            "organisation": {"$model": "app.Organisation", "pk": organisation.pk}
        }
        assert stored.next_run is not None
        assert stored.next_run.astimezone(stored.rule.zone).time() == dt.time(9, 0)

    def test_registering_again_with_the_same_rule_moves_nothing(self) -> None:
        mine = tree()
        mine.save()
        first = mine.register_schedule(interval_minutes=60)
        again = tree().register_schedule(interval_minutes=60)
        assert (again.pk, again.next_run, again.anchor) == (first.pk, first.next_run, first.anchor)

    def test_registering_what_is_registered_already_writes_nothing(self) -> None:
        mine = tree()
        mine.save()
        mine.register_schedule(interval_minutes=60, context={"a": 1})
        saved: list[ProcessTreeSchedule] = []

        def note(instance: ProcessTreeSchedule, **kwargs: Any) -> None:
            saved.append(instance)

        post_save.connect(note, sender=ProcessTreeSchedule)
        try:
            mine.register_schedule(interval_minutes=60, context={"a": 1})
            assert saved == []
            mine.register_schedule(interval_minutes=60, context={"a": 2})
            assert len(saved) == 1
        finally:
            post_save.disconnect(note, sender=ProcessTreeSchedule)

    def test_what_an_operator_switched_off_stays_off(self) -> None:
        mine = tree()
        mine.save()
        mine.register_schedule()
        schedule = ProcessTreeSchedule.objects.get()
        schedule.enabled = False
        schedule.save()
        assert not tree().register_schedule().enabled
        assert tree().register_schedule(enabled=True).enabled

    @pytest.mark.parametrize("interval", [0, -5, 525_601, 1.5, True, "60"])
    def test_an_interval_that_is_none_is_refused(self, interval: Any) -> None:
        mine = tree()
        mine.save()
        with pytest.raises(ScheduleError, match="interval_minutes"):
            mine.register_schedule(interval_minutes=interval)
        assert not ProcessTreeSchedule.objects.exists()

    @pytest.mark.parametrize("start", ["09:00", 9, dt.time(9, tzinfo=dt.UTC)])
    def test_a_start_time_is_a_time_without_a_zone(self, start: Any) -> None:
        mine = tree()
        mine.save()
        with pytest.raises(ScheduleError, match="start_time must be"):
            mine.register_schedule(start_time=start)

    def test_an_unknown_zone_is_refused(self) -> None:
        mine = tree()
        mine.save()
        with pytest.raises(ScheduleError, match="'Mars/Olympus' is not an IANA time zone"):
            mine.register_schedule(timezone="Mars/Olympus")

    def test_a_context_that_cannot_be_stored_is_refused_with_its_path(self) -> None:
        mine = tree()
        mine.save()
        with pytest.raises(ContextError, match=r"context\['a'\]\[2\] is object"):
            mine.register_schedule(context={"a": [1, 2, object()]})


def test_no_warning_where_every_function_can_be_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree().save()
