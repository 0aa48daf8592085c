"""Trees as YAML: what is exported is applied, and changes nothing."""

import datetime as dt
import json
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctree_dagster.domain.tree_descriptions import OF_TREE, TreeDescription
from proctree_dagster.exceptions import DescriptionError
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, Trigger
from proctree_dagster.services import tree_descriptions
from proctree_dagster.tree_builder import ProcessTreeInstance, tree_files
from tests.app import processes
from tests.app.models import Organisation
from tests.tree_builder.code_of_trees import Code, said, tree
from tests.tree_builder.test_sync import full

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("dagster_home")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trees.yaml"


def make() -> ProcessTreeInstance:
    """Save a tree with everything that a file may say."""
    ProcessTreeInstance("report").add_process("one", func=processes.one).save()
    made = ProcessTreeInstance("close", description="Closes.\nThe books: all.")
    made.set_alerts(["late", "failure"], "ada@example.com", expected_minutes=30)
    made.add_process("one", func=processes.one, metadata={"a": [1, None, 1e16]}, cache_ttl=60)
    made.add_process("two", func=processes.two, dependencies=["one"], trigger="weekly")
    made.create_trigger("weekly", "schedule", {"cron": "0 9 * * 1"})
    made.create_trigger("paid", "event", description="Was paid.")
    made.add_dependent_tree("report").save()
    harbour = Organisation.objects.create(name="Harbour")
    made.register_schedule(
        start_time=dt.time(10, 30),
        interval_minutes=90,
        context={"organisation": harbour, "day": dt.date(2026, 3, 31), "yes": "no", "s": "10:30"},
        timezone="Africa/Johannesburg",
    )
    dates: dict[str, Any] = {"start_date": dt.date(2026, 1, 31), "end_date": dt.date(2099, 12, 31)}
    made.register_schedule(name="north", cron="0 9 * * *", enabled=False, tags={"a": "b"}, **dates)
    made.subscribe_to_trigger("paid", context={"n": 1.5}, enabled=False)
    return made


def everything() -> list[list[Any]]:
    models = (ProcessTree, ProcessTreeSchedule, Trigger)
    return [list(each._default_manager.values()) for each in models]


def test_what_was_exported_is_applied_and_changes_nothing(file: Path) -> None:
    make()
    before = everything()
    assert said("export", str(file)) == (0, f"Wrote {file}.\n")
    assert said("apply", str(file), "--check") == (0, "2 trees as the file says.\n")
    assert said("apply", str(file)) == (0, "2 trees as the file says.\n")
    assert everything() == before


def test_trees_that_are_gone_are_made_again_as_they_were(file: Path) -> None:
    make()
    described = tree_descriptions.describe(tree(), ["paid", "weekly"])
    said("export", str(file))
    text = file.read_text()
    ProcessTree.objects.all().delete()
    Trigger.objects.all().delete()
    status, told = said("apply", str(file))
    assert status == 0, told
    assert tree_descriptions.describe(tree(), ["paid", "weekly"]) == described
    said("export", str(file))
    assert file.read_text() == text


def test_a_file_holds_what_differs_from_the_defaults_and_rows_as_references(file: Path) -> None:
    make()
    said("export", "close", str(file))
    document = yaml.safe_load(file.read_text())
    assert [each["name"] for each in document["trees"]] == ["close"]
    [close] = document["trees"]
    assert "executor" not in close
    assert (close["alert_to"], close["expected_minutes"]) == (["ada@example.com"], 30)
    assert "success_within_minutes" not in close
    assert close["schedules"]["north"] == {
        "cron": "0 9 * * *",
        "enabled": False,
        "tags": {"a": "b"},
        "start_date": "2026-01-31",
        "end_date": "2099-12-31",
    }
    default = close["schedules"]["default"]
    assert default["start_time"] == "10:30"
    assert default["context"]["organisation"]["$model"] == "app.Organisation"
    assert document["triggers"]["weekly"]["configuration"] == {"cron": "0 9 * * 1"}
    assert said("export", "close", "-")[1] == file.read_text()


def test_an_edit_of_the_file_is_shown_and_applied(file: Path) -> None:
    make()
    said("export", str(file))
    file.write_text(file.read_text().replace("0 9 * * *", "0 7 * * *").replace("Closes.", "Shuts."))
    status, text = said("apply", str(file), "--check")
    assert status == 1
    assert 'cron of its schedule \'north\': "0 9 * * *" → "0 7 * * *"\n' in text
    assert tree().schedules.get(name="north").cron == "0 9 * * *"
    assert said("apply", str(file))[0] == 0
    assert tree().schedules.get(name="north").cron == "0 7 * * *"
    assert tree().description.startswith("Shuts.")
    assert tree().edited == []


def test_what_the_file_does_not_name_stays_and_is_said(file: Path) -> None:
    make()
    said("export", "close", str(file))
    document = yaml.safe_load(file.read_text())
    del document["trees"][0]["schedules"]["north"]
    file.write_text(yaml.safe_dump(document))
    assert "its schedule 'north': not in the file; it stays" in said("apply", str(file))[1]
    assert tree().schedules.filter(name="north").exists()


def test_a_file_about_a_declared_tree_is_an_edit(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Code(monkeypatch)
    code.says("close", full)
    code.says("report")
    said("sync")
    said("export", str(file))
    file.write_text(file.read_text().replace("0 9 * * *", "0 7 * * *"))
    assert said("apply", str(file))[0] == 0
    assert "edited since the deploy: cron of its schedule" in said("list")[1]


GOOD = "{name: t, processes: [{name: a, func: 'tests.app.processes:one'}]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trees: [", "is not YAML that can be read"),
        ("[]", "has no list 'trees'"),
        ("trees: {}", "has no list 'trees'"),
        ("trees: []\nthings: 1", "Unknown key 'things'"),
        ("version: 2\ntrees: []", "Its version is 2"),
        ("trees: []\ntrees: []", "'trees' is written twice"),
        ("trees: [1]", "Tree 1 has no name"),
        (f"trees: [{GOOD}}}, {GOOD}}}]", "'t' is there twice"),
        (f"trees: [{GOOD}, nonsense: 1}}]", "unknown key 'nonsense'"),
        ("trees: [{name: t}]", "has no processes"),
        ("trees: [{name: t, processes: [{name: a, func: 'os:system'}]}]", "is not allowed"),
        ("trees: [{name: t, processes: !!python/name:os.system ''}]", "python/name"),
        (f"trees: [{GOOD}, schedules: [1]}}]", "must be a mapping"),
        (f"trees: [{GOOD}, schedules: {{default: {{cron: 5 o'clock}}}}}}]", "schedules: 'default'"),
        (f"trees: [{GOOD}, schedules: {{default: {{start_time: 10:30}}}}}}]", "start_time"),
        (f"trees: [{GOOD}, schedules: {{default: {{colour: red}}}}}}]", "no option 'colour'"),
        (
            f"trees: [{GOOD}, subscriptions: {{gone: {{}}}}}}]",
            "trigger 'gone', which does not exist",
        ),
        (
            f"trees: [{GOOD}, schedules: {{default: {{context: {{a: {{$model: auth.User, pk: 1}}"
            "}}}}]",
            "auth.User",
        ),
        ("triggers: {x: {trigger_type: no}}\ntrees: []", "triggers: 'x'"),
        ("triggers: {x: {trigger_type: event}}\ntrees: []", "no tree to save them with"),
        (f"trees: [{GOOD}, subscriptions: 5}}]", "must be a mapping"),
        (f"trees: [{GOOD}, limit_per_key: 5}}]", "needs one_at_a_time_per"),
        (f"trees: [{GOOD}, schedules: {{default: {{start_time: 10:30}}}}}}]", "not in quotes"),
        (f"trees: [{GOOD}, schedules: {{default: {{interval_minutes: .inf}}}}}}]", "not inf"),
        (f"trees: [{GOOD}, schedules: {{default: {{enabled: null}}}}}}]", "can't be null"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_nothing_is_changed(
    file: Path, text: str, told: str
) -> None:
    file.write_text(text)
    for arguments in (("apply", str(file)), ("apply", str(file), "--check")):
        status, printed = said(*arguments)
        assert status == 1
        assert str(file) in printed
        assert told in printed
    assert not ProcessTree.objects.exists()
    assert not Trigger.objects.exists()


def test_all_trees_of_a_file_are_applied_or_none(file: Path) -> None:
    other = GOOD.replace("name: t", "name: u")
    file.write_text(f"trees: [{GOOD}}}, {other}, dependent_trees: [none]}}]")
    status, text = said("apply", str(file))
    assert status == 1
    assert "Nothing was changed:\nu: " in text
    assert not ProcessTree.objects.exists()


def test_a_file_that_is_not_there_or_can_not_be_written_is_said(tmp_path: Path) -> None:
    assert "can't be read" in said("apply", str(tmp_path / "none.yaml"))[1]
    assert "can't be written" in said("export", str(tmp_path / "no" / "folder.yaml"))[1]


def linked(**followers: list[str]) -> str:
    """Return a file of trees with followers."""
    trees = [
        f"{GOOD.replace('name: t', f'name: {name}')}, dependent_trees: {names}}}"
        for name, names in followers.items()
    ]
    return f"trees: [{', '.join(trees)}]"


def test_a_link_is_turned_round(file: Path) -> None:
    file.write_text(linked(a=[], b=["a"]))
    assert said("apply", str(file))[0] == 0
    file.write_text(linked(a=["b"], b=[]))
    status, text = said("apply", str(file))
    assert status == 0, text
    assert tree("a").linked_trees() == {"dependent_trees": ["b"]}
    assert tree("b").linked_trees() == {}


def test_followers_in_any_order_are_as_the_file_says(file: Path) -> None:
    file.write_text(linked(a=["z", "c"], c=[], z=[]))
    assert said("apply", str(file))[0] == 0
    assert said("apply", "--check", str(file)) == (0, "3 trees as the file says.\n")


def test_a_mapping_is_merged_into_another_as_yaml_does() -> None:
    found = tree_files.load("x: &d {on: 1, cron: a}\ny: {<<: *d, cron: b}")
    assert found["y"] == {True: 1, "cron": "b"}
    with pytest.raises(DescriptionError, match="'cron' is written twice"):
        tree_files.load("x: &d {a: 1}\ny: {<<: *d, cron: b, cron: c}")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_console_cannot_encode_is_escaped_as_yaml_and_json_are(encoding: str) -> None:
    made = ProcessTreeInstance("close", description="Müller, 東京 and 😀")
    made.add_process("one", func=processes.one).save()

    def printed(*arguments: str) -> str:
        raw = BytesIO()
        stream = TextIOWrapper(raw, encoding=encoding)
        call_command("proctree", *arguments, stdout=stream)
        stream.flush()
        return raw.getvalue().decode(encoding)

    exported, shown = printed("export", "-"), printed("show", "close", "--json")
    assert tree_files.load(exported)["trees"][0]["description"] == made.description
    assert json.loads(shown)["description"] == made.description
    assert {"東京" in exported, "東京" in shown} == {encoding == "utf-8"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(
        ["1:20", "no", "2026-03-31", "0o7", "~", "a: b", "- x", "#", "", " x", "1e3"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_json_comes_back_from_yaml_as_it_was(value: Any) -> None:
    assert tree_files.load(tree_files.dump({"a": value})) == {"a": value}


@given(st.text(max_size=8), st.dictionaries(TEXT, JSON, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_tree_comes_back_from_its_file_as_it_was(description: str, metadata: Any) -> None:
    process = {"name": "a", "func": "tests.app.processes:one", "metadata": metadata}
    row = ProcessTree(name="t", description=description, processes=[process])
    described = TreeDescription("t", tree_descriptions.complete(row.own_content))
    text = tree_files.dump({"trees": [tree_files._tree_as_json(described)]})
    try:
        [found] = tree_files.parse(text)
    except DescriptionError:
        assert row.problems() or "\ud800" <= max(description, default="") <= "\udfff"
    else:
        assert found == described
        assert found.content.keys() == OF_TREE.keys()
