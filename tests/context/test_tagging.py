"""What a run is tagged with: values of its context, what is given, and who has launched it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from dagster import DagsterInstance, RunRequest, build_schedule_context
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import USER_EDITABLE_SYSTEM_TAGS
from dagster._utils.tags import is_valid_tag_key
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from proctree_dagster import context as contexts
from proctree_dagster import testing, triggers
from proctree_dagster.context import sensitive, tagging
from proctree_dagster.domain import run_tags as tags
from proctree_dagster.domain.texts import storable
from proctree_dagster.exceptions import InvalidTree, TagError
from proctree_dagster.management import tag_pairs
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.coordinator import StraightRunCoordinator
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import origins
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.services import broken_rows
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import (
    ProcessTreeBuilder,
    ProcessTreeInstance,
    ProcessTreeManager,
)
from tests.app import annotated, processes
from tests.app.models import AccessToken, Document, Organisation
from tests.management.test_actions import as_json, only_run, typed
from tests.orchestration.runs.test_family_runs import execute, fetch, save, work

pytestmark = pytest.mark.django_db

ACME: Any = {"$model": "app.Organisation", "pk": 1}


def tree_of(*keys: str, name: str = "close", **schedule: Any) -> ProcessTreeInstance:
    """Return a saved tree whose runs are tagged with these keys of their context."""
    tree = ProcessTreeInstance(name, overwrite=True, run_tags=keys)
    tree.add_process("only", func=processes.echo).save()
    return tree


def of_context(run_tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that come from a run's context, by their keys."""
    found = {name for name in run_tags if name.startswith(tags.CONTEXT)}
    return {name.removeprefix(tags.CONTEXT): run_tags[name] for name in found}


class TestValuesOfAContext:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("North", "North"),
            ("  two\n lines ", "two lines"),
            ("", ""),
            (2026, "2026"),
            (1.5, "1.5"),
            (True, "true"),
            ({"$date": "2026-03-31"}, "2026-03-31"),
            ({"$decimal": "1.50"}, "1.50"),
            (ACME, "app.Organisation:1"),
            ({"$model": "app.Organisation", "pk": 1, "using": "north"}, "app.Organisation:1@north"),
            (
                {"$model": "app.Holding", "pk": ["me", {"$date": "2026-3-1"}]},
                "app.Holding:me,2026-3-1",
            ),
            ({"$model": "app.Document", "pk": {"$uuid": "9f1c"}}, "app.Document:9f1c"),
            ([1, "a", ACME], '[1, "a", "app.Organisation:1"]'),
            ({"a": {"b": 1}}, '{"a": {"b": 1}}'),
            ("x" * 63, "x" * 63),
            ("x" * 64, "x" * 62 + "…"),
            ("half \ud800 and \x00", "half \\ud800 and \\x00"),
        ],
    )
    def test_a_value_is_a_short_text(self, value: Any, expected: str) -> None:
        assert tagging.from_context(["k"], {"k": value}) == {"context/k": expected}

    @pytest.mark.parametrize("context", [{}, {"k": None}, {"another": 1}])
    def test_what_is_not_there_is_no_tag(self, context: dict[str, Any]) -> None:
        assert tagging.from_context(["k"], context) == {}

    def test_a_key_that_is_called_like_a_secret_is_no_tag(self) -> None:
        assert tagging.from_context(["api_key", "a"], {"api_key": "s3", "a": 1}) == {
            "context/a": "1"
        }

    @pytest.mark.parametrize(
        "label", ["app.AccessToken", "sessions.Session", "no.Model", "nonsense"]
    )
    def test_a_row_whose_key_is_a_secret_is_no_tag(self, label: str) -> None:
        assert tagging.from_context(["k"], {"k": {"$model": label, "pk": "s3cr3t"}}) == {}

    def test_a_secret_inside_of_a_value_is_left_out(self) -> None:
        value = {"url": "x", "password": "s3cr3t", "all": [{"token": "s3cr3t", "n": 1}]}
        [text] = tagging.from_context(["k"], {"k": value}).values()
        assert text == '{"url": "x", "all": [{"n": 1}]}'
        nested = {"k": [{"$model": "app.AccessToken", "pk": "s3cr3t"}]}
        assert tagging.from_context(["k"], nested) == {"context/k": "[null]"}

    def test_rows_are_not_asked_for(self, django_assert_num_queries: Any) -> None:
        north = Organisation.objects.create(name="North")
        stored = contexts.encode({"k": north, "d": Document.objects.create(title="D")})
        with django_assert_num_queries(0):
            found = tagging.from_context(["k", "d"], stored)
        assert found["context/k"] == f"app.Organisation:{north.pk}"

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["a", "b", "c", "password", "$model", "pk", "$date", "using"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                lambda inner: (
                    st.lists(inner)
                    | st.dictionaries(st.text() | st.sampled_from(["$model", "pk", "$uuid"]), inner)
                ),
                max_leaves=8,
            ),
        )
    )
    def test_whatever_a_context_holds_its_tags_are_short_texts(self, context: Any) -> None:
        keys = ["a", "b", "c", "password", "missing"]
        found = tagging.from_context(keys, context)
        assert set(found) <= {f"context/{key}" for key in ("a", "b", "c")}
        assert all(len(text) <= tagging.LONGEST for text in found.values())
        assert all(text == storable(text) for text in found.values())
        assert all(map(is_valid_tag_key, found))

    def test_a_value_nested_too_deep_or_too_large_is_no_tag_and_fails_nothing(self) -> None:
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        assert tagging.from_context(["a", "b"], {"a": deep, "b": 10**5000}) == {}

    def test_dagsters_own_processes_need_no_settings_and_leave_out_what_may_be_a_secret(
        self,
    ) -> None:
        context = {
            "org": ACME,
            "uuid": {"$model": "app.Document", "pk": {"$uuid": "9f1c"}},
            "text": {"$model": "app.Device", "pk": "s3cr3t"},
            "token": {"$model": "app.AccessToken", "pk": {"$uuid": "s3cr3t"}},
        }
        code = (
            "import json, sys\n"
            "from proctree_dagster.context import tagging\n"
            f"found = tagging.from_context(['org', 'uuid', 'text', 'a'], {context!r})\n"
            "print(json.dumps([found, 'dagster' in sys.modules]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={}, check=True
        )
        expected = {"context/org": "app.Organisation:1", "context/uuid": "app.Document:9f1c"}
        assert json.loads(done.stdout) == [expected, False]


class TestTheTree:
    def test_its_keys_survive_saving_loading_and_changing(self) -> None:
        tree = tree_of("organisation", "year")
        assert ProcessTree.objects.get().run_tags == ["organisation", "year"]
        assert tree.to_dict()["run_tags"] == ["organisation", "year"]
        loaded = ProcessTreeInstance.load("close")
        assert loaded.run_tags == ("organisation", "year")
        loaded.set_description("Closes.").save()
        assert ProcessTree.objects.get().run_tags == ["organisation", "year"]
        loaded.set_run_tags(["year"]).save()
        assert ProcessTree.objects.get().run_tags == ["year"]
        again = ProcessTreeInstance("close", overwrite=True).add_process("only", processes.echo)
        assert again.save().run_tags == []

    def test_a_key_that_no_function_takes_is_logged_when_the_tree_is_saved(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        tree = ProcessTreeInstance("close", run_tags=["organisation", "organization"])
        tree.add_process("only", annotated.name_of).save()
        [told] = [each.message for each in caplog.records if "run_tags" in each.message]
        assert "No function of the tree takes 'organization'. Did you mean" in told

    def test_the_builder_takes_them(self) -> None:
        built = ProcessTreeBuilder("x", run_tags=("organisation",)).add("a", processes.one)
        assert built.save().run_tags == ["organisation"]

    def test_they_change_the_revision_and_a_tree_without_them_keeps_its_own(self) -> None:
        before = save("close").revision
        assert "run_tags" not in ProcessTree.objects.get().to_dict()
        tree_of("organisation")
        assert ProcessTree.objects.get().revision != before

    @pytest.mark.parametrize(
        ("keys", "problem"),
        [
            (5, "run_tags must be a list of keys of the context, not 5"),
            ("organisation", "run_tags must be a list of keys of the context, not 'organisation'"),
            (["a b"], "run_tags name 'a b', which can't be a tag in Dagster"),
            (["naïve"], "run_tags name 'naïve'"),
            (["x" * 64], "at most 63"),
            ([""], "run_tags name ''"),
            ([5], "run_tags name 5"),
            (["a", "b", "a"], "run_tags name 'a' more than once"),
            (["api_token"], "run_tags name 'api_token', which is called like a secret"),
        ],
    )
    def test_keys_that_can_not_be_tags_are_refused(self, keys: Any, problem: str) -> None:
        tree = ProcessTreeInstance("close", run_tags=keys).add_process("only", processes.echo)
        with pytest.raises(InvalidTree) as error:
            tree.save()
        assert problem in str(error.value)

    def test_keys_that_sql_has_put_there_break_no_run(self, instance: DagsterInstance) -> None:
        tree_of()
        ProcessTree.objects.update(run_tags=["password", "a"])
        run_id = ProcessTreeManager.execute_tree("close", {"password": "s3", "a": 1})["run_id"]
        assert of_context(fetch(instance, run_id).tags) == {"a": "1"}
        [told] = broken_rows.invalid_trees()
        assert "'password', which is called like a secret" in told.problem
        assert not told.fails

    def test_the_admin_shows_them_and_says_what_is_wrong_beside_them(
        self, admin_client: Client
    ) -> None:
        page = "/admin/proctree_dagster/processtree/add/"
        posted = {
            **{"name": "x", "cache_enabled": "on", "links_out-TOTAL_FORMS": 0},
            **{"schedule-TOTAL_FORMS": 0, "schedule-INITIAL_FORMS": 0},
            **{"links_out-INITIAL_FORMS": 0},
            "processes": '[{"name": "one", "func": "tests.app.processes:one"}]',
        }
        answer = admin_client.post(page, {**posted, "run_tags": '["pass word"]'})
        errors = answer.context["adminform"].form.errors
        assert list(errors) == ["run_tags"]
        assert admin_client.post(page, {**posted, "run_tags": ""}).status_code == 302
        assert ProcessTree.objects.get().run_tags == []
        ProcessTree.objects.all().delete()
        assert admin_client.post(page, {**posted, "run_tags": '["year"]'}).status_code == 302
        assert ProcessTree.objects.get().run_tags == ["year"]


@pytest.mark.parametrize("table", ["processtree", "processtreeschedule", "triggersubscription"])
def test_a_release_that_does_not_know_the_columns_can_write_rows(table: str) -> None:
    model = {"processtree": ProcessTree, "processtreeschedule": ProcessTreeSchedule}.get(
        table, TriggerSubscription
    )
    column = "run_tags" if model is ProcessTree else "tags"
    field: Any = model._meta.get_field(column)
    assert field.db_default is not None
    with connection.cursor() as cursor:
        described = connection.introspection.get_table_description(
            cursor, f"proctree_dagster_{table}"
        )
    [found] = [each for each in described if each.name == column]
    assert found.default is not None


class TestEveryWayOfStarting:
    """A run is tagged with its context, whoever starts it; before it is queued, if it is."""

    EXPECTED = {"organisation": "app.Organisation:1", "year": "2026"}

    @pytest.fixture(autouse=True)
    def tree(self) -> ProcessTreeInstance:
        Organisation.objects.create(pk=1, name="North")
        return tree_of("organisation", "year")

    @pytest.fixture
    def context(self) -> dict[str, Any]:
        return {"organisation": Organisation.objects.get(), "year": 2026}

    def test_in_the_calling_process(self, instance: DagsterInstance, context: Any) -> None:
        run_id = ProcessTreeManager.execute_tree("close", context)["run_id"]
        assert of_context(fetch(instance, run_id).tags) == self.EXPECTED

    def test_from_the_queue(self, instance: DagsterInstance, context: Any) -> None:
        run_id = ProcessTreeManager.submit_tree("close", context).run_id
        assert of_context(fetch(instance, run_id).tags) == self.EXPECTED

    def test_by_a_command(self, instance: DagsterInstance) -> None:
        typed("run", "close", "--set", "organisation=app.Organisation:1", "--set", "year=2026")
        assert of_context(only_run(instance).tags) == self.EXPECTED

    def test_by_the_daemon_for_its_schedule(
        self, instance: DagsterInstance, tree: ProcessTreeInstance, context: Any
    ) -> None:
        tree.register_schedule(context=context, tags={"team": "books"})
        ProcessTreeSchedule.objects.update(next_run=timezone.now())
        schedule = LiveRepositoryData(ProcessTreeTranslator()).get_schedule("close_schedule")
        now = timezone.now()
        tick = schedule.evaluate_tick(
            build_schedule_context(instance=instance, scheduled_execution_time=now)
        )
        assert tick.run_requests is not None
        [request] = tick.run_requests
        assert isinstance(request, RunRequest)
        assert of_context(request.tags) == self.EXPECTED
        assert request.tags["team"] == "books"
        assert request.tags[tags.TRIGGERED_BY] == "schedule"

    def test_by_a_scheduler_of_the_projects(
        self, instance: DagsterInstance, tree: ProcessTreeInstance, context: Any
    ) -> None:
        tree.register_schedule(context=context, tags={"team": "books"})
        ProcessTreeSchedule.objects.update(next_run=timezone.now())
        check_and_run_scheduled_tasks()
        run = only_run(instance)
        assert of_context(run.tags) == self.EXPECTED
        assert run.tags["team"] == "books"

    def test_by_a_trigger(
        self, instance: DagsterInstance, tree: ProcessTreeInstance, context: Any
    ) -> None:
        tree.create_trigger("t", "event")
        tree.subscribe_to_trigger("t", {"year": 2026}, tags={"team": "books", "of": "both"})
        fired = {"organisation": context["organisation"]}
        [run] = triggers.fire_trigger("t", fired, tags={"of": "fire"})
        made = fetch(instance, run.run_id)
        assert of_context(made.tags) == self.EXPECTED
        assert (made.tags["team"], made.tags["of"]) == ("books", "fire")

    def test_because_another_tree_was_run(self, instance: DagsterInstance, context: Any) -> None:
        save("before", then=("close",))
        ProcessTreeManager.execute_tree("before", context, tags={"team": "books"})
        assert work(instance) == ["close"]
        made = {run.tags[tags.TREE]: run for run in instance.get_runs()}
        assert of_context(made["close"].tags) == self.EXPECTED
        assert of_context(made["before"].tags) == {}
        assert "team" not in made["close"].tags, "it is given to one run"

    def launched(self, instance: DagsterInstance, config: Any, **given: str) -> str:
        """Create a run as the webserver does, which knows the job's snapshot only."""
        job = translator().job(from_row(ProcessTree.objects.get(name="close")))
        run = instance.create_run_for_job(
            job,
            run_config=config,
            tags={**job.run_tags, **given},
            remote_job_origin=origins.remote_origin(job.name),
            job_code_origin=origins.code_origin(job.name),
        )
        return run.run_id

    def submit(self, instance: DagsterInstance, run_id: str) -> None:
        """Submit a run as a webserver does whose home has our coordinator."""
        coordinator = StraightRunCoordinator()
        coordinator.register_instance(instance)
        context = SubmitRunContext(fetch(instance, run_id), workspace=None)  # type: ignore[arg-type]
        try:
            coordinator.submit_run(context)
        finally:
            coordinator.dispose()

    def test_from_the_launchpad_before_it_is_queued(self, instance: DagsterInstance) -> None:
        run_id = self.launched(instance, {"context": {"organisation": ACME, "year": 2026}})
        self.submit(instance, run_id)
        assert of_context(fetch(instance, run_id).tags) == self.EXPECTED

    @pytest.mark.parametrize("config", [{}, {"context": {}}])
    def test_from_the_launchpad_with_nothing_of_it(
        self, instance: DagsterInstance, tree: ProcessTreeInstance, config: Any
    ) -> None:
        tree.register_schedule(context={"year": 2026})
        run_id = self.launched(instance, config)
        self.submit(instance, run_id)
        assert execute(instance, fetch(instance, run_id))
        # What the worker finds counts: the default context.
        expected = {"year": "2026"} if config == {} else {}
        assert of_context(fetch(instance, run_id).tags) == expected

    def test_under_dagsters_own_coordinator_when_it_starts(self, instance: DagsterInstance) -> None:
        run_id = self.launched(instance, {"context": {"organisation": ACME, "year": 2026}})
        assert of_context(fetch(instance, run_id).tags) == {}
        assert execute(instance, fetch(instance, run_id))
        assert of_context(fetch(instance, run_id).tags) == self.EXPECTED

    def test_also_if_it_fails_for_its_context(self, instance: DagsterInstance) -> None:
        gone = {"organisation": {"$model": "app.Organisation", "pk": 99}, "year": 2026}
        run_id = self.launched(instance, {"context": gone})
        assert not execute(instance, fetch(instance, run_id))
        assert of_context(fetch(instance, run_id).tags)["organisation"] == "app.Organisation:99"

    def test_by_its_own_context_if_the_tags_of_another_were_copied(
        self, instance: DagsterInstance
    ) -> None:
        copied = {"context/organisation": "app.Organisation:5", "context/year": "2025"}
        run_id = self.launched(instance, {"context": {"year": 2026}}, **copied)
        assert execute(instance, fetch(instance, run_id))
        assert of_context(fetch(instance, run_id).tags) == {"organisation": "", "year": "2026"}

    def test_its_tags_are_written_once(
        self, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, context: Any
    ) -> None:
        written: list[Mapping[str, str]] = []
        add = DagsterInstance.add_run_tags

        def note(self: DagsterInstance, run_id: str, new_tags: Mapping[str, str]) -> None:
            written.append(new_tags)
            add(self, run_id, new_tags)

        monkeypatch.setattr(DagsterInstance, "add_run_tags", note)
        run_id = ProcessTreeManager.submit_tree("close", context).run_id
        assert execute(instance, fetch(instance, run_id))
        assert not [new for new in written if of_context(new)]


class TestGivenTags:
    @pytest.mark.parametrize("name", sorted(USER_EDITABLE_SYSTEM_TAGS))
    def test_what_dagster_takes_from_people_is_taken(self, name: str) -> None:
        assert tagging.checked({name: "1"}) == {name: "1"}

    def test_they_are_those_that_dagster_lists(self) -> None:
        assert set(USER_EDITABLE_SYSTEM_TAGS) == tagging.SETTINGS_OF_DAGSTER

    @pytest.mark.parametrize(
        "given",
        [{}, None, {"team": "books"}, {"user": "alice"}, {"a.b/c-d_e": ""}, {"k": "x" * 255}],
    )
    def test_others_are_taken_as_they_are(self, given: dict[str, str] | None) -> None:
        assert tagging.checked(given) == (given or {})

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"dagster/run_key": "x"}, "'dagster/run_key' is not yours to set"),
            ({"dagster/sensor_name": "x"}, "is not yours to set"),
            ({".dagster/proctree_worker": "x"}, "is not yours to set"),
            ({"proctree/tree": "x"}, "is not yours to set"),
            ({"proctree/no_cache": "true"}, "is not yours to set"),
            ({"context/organisation": "x"}, "is not yours to set"),
            ({"a b": "x"}, "'a b' is no name of a tag"),
            ({"a/b/c": "x"}, "is no name of a tag"),
            ({"": "x"}, "is no name of a tag"),
            ({"x" * 64: "x"}, "at most 63"),
            ({5: "x"}, "5 is no name of a tag"),
            ({"__class__": "x"}, "is no name of a tag"),
            ({"a": 5}, "'a' must be a text, not 5"),
            ({"a": None}, "'a' must be a text, not None"),
            ({"a": "x" * 256}, "at most 255 characters"),
            ({"a": "\x00"}, "without NUL"),
            ({"a": "\ud800"}, "without NUL"),
            ({"api_token": "x"}, "called like a secret"),
            (["team"], "Tags are a dictionary"),
            ("team=books", "Tags are a dictionary"),
        ],
    )
    def test_what_is_no_tag_is_refused_everywhere(self, given: Any, problem: str) -> None:
        tree = tree_of()
        tree.create_trigger("t", "event")
        pending = ProcessTreeInstance("unsaved").add_process("only", processes.echo)
        for attempt in (
            lambda: ProcessTreeManager.submit_tree("close", tags=given),
            lambda: ProcessTreeManager.execute_tree("close", tags=given),
            lambda: tree.register_schedule(tags=given),
            lambda: tree.subscribe_to_trigger("t", tags=given),
            lambda: pending.subscribe_to_trigger("t", tags=given),
            lambda: triggers.fire_trigger("t", tags=given),
        ):
            with pytest.raises(TagError) as error:
                attempt()
            assert problem in str(error.value)
        assert not ProcessTreeSchedule.objects.exists()
        assert not TriggerSubscription.objects.exists()
        assert not OutboxRun.objects.exists()

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        with pytest.raises(TagError) as error:
            tagging.checked({"a b": "x", "ok": "x", "proctree/tree": "x"})
        assert "'a b'" in str(error.value)
        assert "'proctree/tree'" in str(error.value)

    def test_a_run_has_them(self, instance: DagsterInstance) -> None:
        tree_of()
        given = {"team": "books", "dagster/priority": "3"}
        for run_id in (
            ProcessTreeManager.submit_tree("close", tags=given).run_id,
            ProcessTreeManager.execute_tree("close", tags=given)["run_id"],
        ):
            run_tags = fetch(instance, run_id).tags
            assert given.items() <= run_tags.items()
            assert run_tags[tags.TRIGGERED_BY] == "python"

    def test_registering_a_schedule_again_keeps_them_unless_others_are_given(self) -> None:
        tree = tree_of()
        assert tree.register_schedule().tags == {}
        assert tree.register_schedule(tags={"team": "books"}).tags == {"team": "books"}
        assert tree.register_schedule(interval_minutes=30).tags == {"team": "books"}
        assert ProcessTreeSchedule.objects.get().tags == {"team": "books"}
        assert tree.register_schedule(tags={}).tags == {}
        assert ProcessTreeSchedule.objects.get().tags == {}

    def test_new_tags_do_not_disturb_the_due_times(self) -> None:
        tree = tree_of()
        before = tree.register_schedule(interval_minutes=7).next_run
        assert tree.register_schedule(tags={"team": "books"}).next_run == before

    def test_a_subscription_keeps_them_unless_others_are_given(self) -> None:
        tree = tree_of()
        tree.create_trigger("t", "event")
        tree.subscribe_to_trigger("t", tags={"team": "books"})
        assert TriggerSubscription.objects.get().tags == {"team": "books"}
        tree.subscribe_to_trigger("t", {"a": 1})
        assert TriggerSubscription.objects.get().tags == {"team": "books"}
        [written] = tree.to_dict()["triggers"]
        assert written == {"trigger": "t", "context": {"a": 1}, "tags": {"team": "books"}}
        tree.subscribe_to_trigger("t", tags={})
        assert TriggerSubscription.objects.get().tags == {}

    def test_a_subscription_that_waits_for_save_has_them(self) -> None:
        triggers.create_trigger("t", "event")
        tree = ProcessTreeInstance("later").add_process("only", processes.echo)
        tree.subscribe_to_trigger("t", tags={"team": "books"})
        assert tree.to_dict()["triggers"] == [{"trigger": "t", "tags": {"team": "books"}}]
        tree.save()
        assert TriggerSubscription.objects.get().tags == {"team": "books"}

    @pytest.mark.parametrize("written", [5, "x", ["a"], {"proctree/tree": "x", "a": 5}])
    def test_what_sql_has_put_there_keeps_no_tree_from_running(
        self, instance: DagsterInstance, written: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        tree = tree_of()
        tree.create_trigger("t", "event")
        tree.subscribe_to_trigger("t")
        tree.register_schedule()
        TriggerSubscription.objects.update(tags=written)
        ProcessTreeSchedule.objects.update(tags=written, next_run=timezone.now())
        [fired] = triggers.fire_trigger("t")
        assert check_and_run_scheduled_tasks()["close"]["success"]
        assert fetch(instance, fired.run_id).tags[tags.TREE] == "close"
        assert "are invalid, and are left out" in caplog.text
        found = broken_rows.findings()
        assert found
        assert not any(each.fails for each in found)

    @pytest.mark.parametrize(
        ("posted", "code"), [("", 302), ('{"a": "b"}', 302), ('{"a": 1}', 200)]
    )
    def test_the_admin_checks_them(self, admin_client: Client, posted: str, code: int) -> None:
        schedule = tree_of().register_schedule()
        page = f"/admin/proctree_dagster/processtreeschedule/{schedule.pk}/change/"
        answer = admin_client.post(
            page,
            {
                **{"process_tree": schedule.process_tree_id, "interval_minutes": 60},
                **{"context": "{}", "tags": posted},
            },
        )
        assert answer.status_code == code
        schedule.refresh_from_db()
        assert schedule.tags == ({"a": "b"} if "b" in posted else {})


class TestLaunchedBy:
    """Dagster's column names the first of ``user``, the schedule and the sensor among the tags."""

    def launcher(self, instance: DagsterInstance, run_id: str) -> str:
        known = ("user", "dagster/schedule_name", "dagster/sensor_name")
        run_tags = fetch(instance, run_id).tags
        return next((run_tags[name] for name in run_tags if name in known), "")

    @pytest.fixture(autouse=True)
    def tree(self) -> ProcessTreeInstance:
        tree = tree_of()
        tree.create_trigger("by hand", "event")
        tree.create_trigger("every hour!", "schedule", {"interval_minutes": 60})
        tree.subscribe_to_trigger("by hand").subscribe_to_trigger("every hour!")
        return tree

    @pytest.fixture
    def shell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A person at a shell."""
        monkeypatch.setenv("LOGNAME", "operator")

    def test_a_run_of_a_trigger_names_the_sensor_that_polls_it(
        self, instance: DagsterInstance
    ) -> None:
        [name] = (
            sensor.name
            for sensor in LiveRepositoryData(ProcessTreeTranslator()).get_all_sensors()
            if sensor.name.startswith("every_hour")
        )
        [run] = triggers.fire_trigger("every hour!")
        assert self.launcher(instance, run.run_id) == name

    def test_a_subscription_may_name_somebody_else(
        self, instance: DagsterInstance, tree: ProcessTreeInstance
    ) -> None:
        tree.subscribe_to_trigger("every hour!", tags={"user": "books@x.org"})
        [run] = triggers.fire_trigger("every hour!")
        assert self.launcher(instance, run.run_id) == "books@x.org"

    def test_a_trigger_that_no_sensor_polls_names_the_one_that_delivers(
        self, instance: DagsterInstance
    ) -> None:
        [run] = triggers.fire_trigger("by hand")
        assert self.launcher(instance, run.run_id) == tags.OUTBOX_SENSOR

    def test_a_run_that_follows_another_names_the_sensor_that_delivers(
        self, instance: DagsterInstance
    ) -> None:
        save("before", then=("close",))
        first = ProcessTreeManager.execute_tree("before")["run_id"]
        work(instance)
        made = {run.tags[tags.TREE]: run.run_id for run in instance.get_runs()}
        assert self.launcher(instance, made["close"]) == tags.OUTBOX_SENSOR
        assert self.launcher(instance, first) == ""

    def test_sensors_do_not_take_these_runs_for_their_own_requests(
        self, instance: DagsterInstance
    ) -> None:
        [run] = triggers.fire_trigger("every hour!")
        assert not {"dagster/run_key", "dagster/tick"} & set(fetch(instance, run.run_id).tags)

    def test_a_trigger_that_is_fired_in_the_admin_names_the_user(
        self, instance: DagsterInstance, admin_client: Client, admin_user: User
    ) -> None:
        chosen = [str(trigger.pk) for trigger in Trigger.objects.all()]
        data = {"action": "fire", "_selected_action": chosen}
        admin_client.post("/admin/proctree_dagster/trigger/", data)
        made = instance.get_runs()
        assert len(made) == 2
        assert {self.launcher(instance, run.run_id) for run in made} == {admin_user.username}
        assert all("dagster/sensor_name" not in run.tags for run in made)

    @pytest.mark.parametrize(
        "action", [["run", "close"], ["run", "close", "--submit"], ["fire", "by hand"]]
    )
    def test_a_command_names_the_user_of_the_operating_system(
        self, instance: DagsterInstance, shell: None, action: list[str]
    ) -> None:
        typed(*action)
        assert self.launcher(instance, only_run(instance).run_id) == "operator"

    def test_the_command_line_may_name_somebody_else(
        self, instance: DagsterInstance, shell: None
    ) -> None:
        typed("run", "close", "--tag", "user=alice", "--tag", "team=books")
        assert self.launcher(instance, only_run(instance).run_id) == "alice"
        assert only_run(instance).tags["team"] == "books"

    def test_a_run_that_is_repeated_names_who_repeats_it(
        self, instance: DagsterInstance, shell: None
    ) -> None:
        save("close", func=processes.fail)
        row = ProcessTree.objects.get(name="close")
        by = {"user": "alice", "dagster/schedule_name": "close_schedule", "team": "books"}
        failed = tree_runs.execute_row(row, run_tags=by)["run_id"]
        [repeated] = as_json("retry", failed)
        assert self.launcher(instance, repeated["run"]) == "operator"
        assert fetch(instance, repeated["run"]).tags["team"] == "books"

    @pytest.mark.parametrize("error", [KeyError("uid"), OSError("no such user"), ImportError()])
    def test_a_container_may_know_no_name_of_its_user(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def fail() -> str:
            raise error

        monkeypatch.setattr("getpass.getuser", fail)
        assert tag_pairs.os_user().startswith("uid ")

    @pytest.mark.parametrize(("name", "expected"), [("", {}), (" ", {}), ("a" * 300, None)])
    def test_a_name_of_whatever_length_is_a_tag(self, name: str, expected: Any) -> None:
        found = tagging.by_user(name)
        assert found == (expected if expected is not None else {"user": "a" * 255})
        assert not tagging.problems(found)

    def test_python_names_nobody_unless_it_is_told_whom(self, instance: DagsterInstance) -> None:
        nobody = ProcessTreeManager.submit_tree("close").run_id
        alice = ProcessTreeManager.submit_tree("close", tags={"user": "alice@x.org"}).run_id
        assert self.launcher(instance, nobody) == ""
        assert self.launcher(instance, alice) == "alice@x.org"


class TestTheListOnTheCommandLine:
    def test_it_shows_who_launched_a_run_and_its_tags(self, instance: DagsterInstance) -> None:
        tree_of("year")
        typed("run", "close", "--set", "year=2026", "--tag", "user=alice", "--tag", "team=books")
        assert typed("runs").rstrip("\n").split("\t")[5:] == ["command", "", "alice"]
        [found] = as_json("runs")
        assert found["launched_by"] == "alice"
        assert found["triggered_by"] == "command"
        assert found["tags"] == {"context/year": "2026", "team": "books", "user": "alice"}

    def test_it_is_filtered_by_tags(self, instance: DagsterInstance) -> None:
        tree_of("year")
        for year in ("2025", "2026"):
            typed("run", "close", "--set", f"year={year}", "--tag", "team=books")
        chosen = ["runs", "close", "--tag", "team=books"]
        assert len(as_json(*chosen)) == 2
        [found] = as_json(*chosen, "--tag", "context/year=2026")
        assert found["tags"]["context/year"] == "2026"
        assert as_json(*chosen, "--tag", "context/year=2024") == []
        assert len(as_json("runs", "--tag", "proctree/tree=close")) == 2

    @pytest.mark.parametrize("action", [["runs"], ["run", "close"], ["fire", "t"]])
    @pytest.mark.parametrize(
        ("pairs", "problem"),
        [
            (["team"], "--tag takes key=value"),
            (["=x"], "--tag takes key=value"),
            (["a=1", "a=2"], "--tag gives 'a' twice"),
        ],
    )
    def test_what_is_no_pair_is_refused(
        self, instance: DagsterInstance, action: list[str], pairs: list[str], problem: str
    ) -> None:
        tree_of().create_trigger("t", "event")
        options = [each for pair in pairs for each in ("--tag", pair)]
        assert problem in typed(*action, *options, code=1)

    def test_show_names_what_a_tree_tags_its_runs_with(self, instance: DagsterInstance) -> None:
        tree_of("year", "organisation")
        assert "Tags of its runs: context/year, context/organisation\n" in typed("show", "close")
        assert as_json("show", "close")["run_tags"] == ["year", "organisation"]

    def test_schedule_takes_them(self) -> None:
        tree_of()
        typed("schedule", "close", "--every", "60", "--tag", "team=books")
        typed("schedule", "close", "--every", "30")
        assert ProcessTreeSchedule.objects.get().tags == {"team": "books"}


def test_a_test_sees_the_tags_that_a_run_would_get() -> None:
    tree_of("year")
    ProcessTreeManager.submit_tree("close", {"year": 2026}, tags={"team": "books"})
    [run] = testing.submitted()
    assert run.tags == {"context/year": "2026", "team": "books"}


def test_the_key_of_a_row_that_is_a_secret_is_known() -> None:
    assert sensitive.has_sensitive_key(AccessToken)
    assert not sensitive.has_sensitive_key(Organisation)
