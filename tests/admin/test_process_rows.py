"""A tree's processes as rows of a form: what was not touched stays, and what was is saved."""

import json
from typing import Any

import pytest
from django.test import Client
from django.utils.datastructures import MultiValueDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from example.ledger import trees
from proctree_dagster.admin import process_rows
from proctree_dagster.admin.process_forms import ProcessTreeForm, Shown
from proctree_dagster.domain import tree_spec
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from tests.admin.sent import fields

pytestmark = pytest.mark.django_db

Process = dict[str, Any]
Sent = MultiValueDict[str, str]

NAMES = st.text(min_size=1, max_size=12).filter(
    lambda name: bool(name.strip()) and "\x00" not in name and name.isprintable()
)
TEXTS = st.text("abc {}_:.é", min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
SECONDS = st.integers(1, 10_000) | st.floats(0.001, 1e6)
SMALL_JSON = st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers() | TEXTS, max_size=2)
REFERENCES = st.sampled_from(["tests.app.processes:one", "tests.app.processes:add", "registered"])
OPTIONS = {
    "cache_key": TEXTS,
    "cache_ttl": st.integers(1, 1000),
    "validation": st.lists(REFERENCES, max_size=2),
    "required": st.booleans(),
    "metadata": SMALL_JSON,
    "response_vars": st.dictionaries(TEXTS, st.just({"type": "int", "default": 0}), max_size=2),
    "outdated_check": REFERENCES,
    "trigger": TEXTS,
    "retries": st.integers(0, 1000),
    "retry_delay": SECONDS | st.just(0),
    "retry_backoff": st.sampled_from(["linear", "exponential", None]),
    "retry_jitter": st.sampled_from(["full", "plus_minus", None]),
    "timeout": SECONDS,
    "pool": TEXTS,
}


@st.composite
def processes(drawn: st.DrawFn) -> list[Process]:
    """Return the processes of a valid tree, in any order, with any options."""
    names = drawn(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    made = []
    for number, name in enumerate(names):
        options = drawn(st.fixed_dictionaries({}, optional=OPTIONS))
        if number:
            options["dependencies"] = drawn(st.lists(st.sampled_from(names[:number]), unique=True))
        made.append({"name": name, "func": drawn(REFERENCES), **options})
    return drawn(st.permutations(made))


def page(row: ProcessTree) -> str:
    return str(ProcessTreeForm(instance=row))


def sent_back(saved: Any) -> tuple[ProcessTree, Sent]:
    """Return a saved tree and what a browser sends of its form."""
    row = ProcessTree.objects.create(name="t", processes=saved)
    return row, fields(page(row))


def save(row: ProcessTree, sent: Sent) -> Any:
    """Return the processes that are saved when these fields are sent."""
    form = ProcessTreeForm(sent, instance=ProcessTree.objects.get(pk=row.pk))
    assert form.is_valid(), form.errors
    return form.cleaned_data["processes"]


def errors(row: ProcessTree, sent: Sent) -> list[str]:
    """Return the errors of the processes, those of their rows included."""
    form = ProcessTreeForm(sent, instance=ProcessTree.objects.get(pk=row.pk))
    assert not form.is_valid()
    assert set(form.errors) == {"processes"}
    shown = form["processes"].value()
    assert isinstance(shown, Shown)
    of_rows = shown.rows.forms if shown.rows is not None else []
    return [
        *form.errors["processes"],
        *(
            f"{name}: {text}"
            for each in of_rows
            for name, found in each.errors.items()
            for text in found
        ),
    ]


TWO: list[Process] = [
    {"name": "first", "func": "tests.app.processes:one", "retries": 3, "pool": "xero"},
    {"name": "second", "func": "tests.app.processes:add", "dependencies": ["first"]},
]
NAME, FUNC = "processes-rows-{}-name", "processes-rows-{}-func"
DEPENDENCIES = "processes-rows-{}-dependencies"


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_of_many_digits_is_an_error_at_its_field(digits: int) -> None:
    row, sent = sent_back(TWO)
    sent["processes-rows-0-timeout"] = "9" * digits
    assert any(each.startswith("timeout: ") for each in errors(row, sent))


@pytest.mark.parametrize("schedules", [0, 15, 20, 21])
def test_a_page_offers_no_rows_with_which_it_could_not_be_sent(
    admin_client: Client, schedules: int, settings: Settings
) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
    for length in (20, 30, 35, 50):
        chain: list[Process] = [{"name": "p0", "func": "tests.app.processes:one"}]
        chain += [
            {"name": f"p{n}", "func": "tests.app.processes:noted", "dependencies": [f"p{n - 1}"]}
            for n in range(1, length)
        ]
        row = ProcessTree.objects.create(name=f"t{length}", processes=chain)
        for number in range(schedules):
            ProcessTreeSchedule.objects.create(
                process_tree=row, name=f"s{number}", cron="0 9 * * *", interval_minutes=None
            )
        url = f"/admin/proctree_dagster/processtree/{row.pk}/change/"
        sent = fields(admin_client.get(url).content.decode())
        count = sum(map(len, dict(sent.lists()).values()))
        assert count <= 1000
        # As a form encoded in parts, so that Django counts the fields.
        assert admin_client.post(url, dict(sent.lists())).status_code == 302


# --- Nothing was touched --------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(saved=processes())
def test_processes_with_any_options_are_the_same_after_a_page_was_sent_back(
    saved: list[Process],
) -> None:
    row = ProcessTree(name="t", processes=saved)
    shown = Shown.of(saved)
    assert shown.rows is not None, shown.why_no_rows
    sent = fields(page(row))
    rows = process_rows.process_rows(sent)
    assert rows.is_valid(), rows.errors
    found = rows.processes()
    assert json.dumps(found) == json.dumps(saved)


def test_the_trees_of_the_guide_and_the_example_are_the_same_after_they_were_sent_back() -> None:
    for tree in (trees.monthly_close(), trees.receivables_reminder()):
        row = tree.save()
        assert save(row, fields(page(row))) == row.processes


@given(
    saved=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["name", "func", "dependencies", "retries", "metadata", "other"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ),
        max_size=3,
    )
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_broken_processes_have_rows_that_change_nothing_or_none(saved: list[Any]) -> None:
    shown = Shown.of(saved)
    if shown.rows is None:
        assert shown.why_no_rows
        assert shown.is_json_open
        return
    rows = process_rows.process_rows(fields(page(ProcessTree(name="t", processes=saved))))
    assert rows.is_valid()
    assert json.dumps(rows.processes()) == json.dumps(saved)


def test_options_that_the_rows_do_not_know_are_kept() -> None:
    row, sent = sent_back([{**TWO[0], "from_a_later_release": {"a": [1]}}])
    sent[NAME.format(0)] = "renamed"
    rows = process_rows.process_rows(sent)
    assert rows.is_valid()
    assert rows.processes() == [{**TWO[0], "name": "renamed", "from_a_later_release": {"a": [1]}}]
    assert "unknown option 'from_a_later_release'" in errors(row, sent)[0]


@pytest.mark.parametrize(
    "saved",
    [
        "[{half",
        {"name": "no list"},
        ["no object"],
        [{"name": "two\nlines", "func": "registered"}],
        [{"name": "a", "func": "registered", "dependencies": "no list"}],
        [{"name": "a", "func": "registered", "required": "yes"}],
        [{"name": "a", "func": "registered", "retries": "three"}],
        [{"name": "a", "func": "registered", "retry_backoff": "sideways"}],
        [{"name": 7, "func": "registered"}],
    ],
)
def test_what_rows_can_not_show_is_edited_as_json_only_and_the_page_says_so(saved: Any) -> None:
    row, sent = sent_back(saved)
    assert "processes-rows-TOTAL_FORMS" not in sent
    assert "Only JSON can be edited" in page(row)
    sent["processes"] = json.dumps(TWO)
    assert save(row, sent) == TWO


def test_a_tree_with_more_processes_than_a_form_may_send_is_edited_as_json(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 400
    many = [{"name": f"p{number}", "func": "registered"} for number in range(12)]
    shown = Shown.of(many, other_fields=200)
    assert shown.rows is None
    assert "DATA_UPLOAD_MAX_NUMBER_FIELDS" in shown.why_no_rows
    row, _ = sent_back(many[:9])
    sent = fields(page(row))
    assert sum(len(values) for _name, values in sent.lists()) < 400
    assert "processes-rows-TOTAL_FORMS" in sent


# --- The rows were edited -------------------------------------------------------------------------


def test_what_is_changed_in_a_row_is_saved_and_the_rest_stays() -> None:
    row, sent = sent_back(TWO)
    sent["processes-rows-0-timeout"] = "2.5"
    sent["processes-rows-0-retries"] = ""
    sent["processes-rows-0-metadata"] = '{"owner": "books"}'
    assert save(row, sent) == [
        {
            **{"name": "first", "func": "tests.app.processes:one", "pool": "xero"},
            **{"timeout": 2.5, "metadata": {"owner": "books"}},
        },
        TWO[1],
    ]


def test_a_whole_number_stays_whole_and_a_default_is_left_out() -> None:
    row, sent = sent_back(TWO)
    sent["processes-rows-0-retry_delay"] = "60"
    sent["processes-rows-1-required"] = ""
    del sent["processes-rows-1-required"]
    sent["processes-rows-1-retries"] = "0"
    found = save(row, sent)
    assert json.dumps(found[0]["retry_delay"]) == "60"
    assert found[1] == {**TWO[1], "required": False}


def test_who_depends_on_a_renamed_process_follows_it() -> None:
    row, sent = sent_back(TWO)
    sent[NAME.format(0)] = "begin"
    assert save(row, sent)[1]["dependencies"] == ["begin"]


def test_a_process_is_added_and_others_depend_on_it_before_it_is_saved() -> None:
    row, sent = sent_back(TWO)
    sent[NAME.format(2)], sent[FUNC.format(2)] = "third", "registered"
    sent["processes-rows-2-ORDER"] = "0"
    sent.setlist(DEPENDENCIES.format(0), ["2"])
    assert [each["name"] for each in save(row, sent)] == ["third", "first", "second"]
    assert save(row, sent)[1]["dependencies"] == ["third"]


def test_a_process_is_removed_and_what_depends_on_it_is_named() -> None:
    row, sent = sent_back(TWO)
    sent["processes-rows-0-DELETE"] = "on"
    (problem,) = errors(row, sent)
    assert "'second' depends on 'first', which is not in the tree" in problem
    sent.setlist(DEPENDENCIES.format(1), [])
    assert save(row, sent) == [{"name": "second", "func": "tests.app.processes:add"}]


def test_a_dependency_that_is_not_in_the_tree_is_shown_and_can_be_removed() -> None:
    row, sent = sent_back([{**TWO[1], "dependencies": ["lost"]}])
    assert "lost (not in the tree)" in page(row)
    assert sent.getlist(DEPENDENCIES.format(0)) == ["=lost"]
    sent.setlist(DEPENDENCIES.format(0), [])
    assert save(row, sent) == [{"name": "second", "func": "tests.app.processes:add"}]


def test_a_dependency_on_a_row_in_which_there_is_nothing_is_an_error_there() -> None:
    row, sent = sent_back(TWO)
    sent.setlist(DEPENDENCIES.format(0), ["2"])
    assert errors(row, sent) == ["dependencies: Process 3 has no process."]


@pytest.mark.parametrize(
    ("option", "typed"), [("retries", "often"), ("timeout", "nan"), ("metadata", '{"a": }')]
)
def test_what_can_not_be_read_in_a_row_is_one_error_at_its_field(option: str, typed: str) -> None:
    row, sent = sent_back(TWO)
    sent[f"processes-rows-0-{option}"] = typed
    (problem,) = errors(row, sent)
    assert problem.startswith(f"{option}: ")


def test_a_tree_is_not_left_without_processes() -> None:
    row, sent = sent_back(TWO)
    sent["processes-rows-0-DELETE"] = sent["processes-rows-1-DELETE"] = "on"
    assert errors(row, sent) == ["The tree has no processes; add at least one."]


# --- JSON -----------------------------------------------------------------------------------------


def test_an_error_in_the_json_is_one_error_with_its_line_and_column() -> None:
    row, sent = sent_back(TWO)
    sent["processes"] = '[\n  {"name": "a" "func": "b"}\n]'
    (problem,) = errors(row, sent)
    assert "line 2, column 16: Expecting ',' delimiter" in problem


@pytest.mark.parametrize("typed", ["[" * 100_000, "1" * 5000, '[{"name": 1, "name": 2}]', "[NaN]"])
def test_json_that_python_or_a_database_can_not_take_is_refused(typed: str) -> None:
    row, sent = sent_back(TWO)
    sent["processes"] = typed
    (problem,) = errors(row, sent)
    assert "JSON" in problem


def test_json_that_was_edited_counts_and_the_rows_do_not() -> None:
    row, sent = sent_back(TWO)
    sent["processes"] = json.dumps(TWO[:1])
    assert save(row, sent) == TWO[:1]


def test_json_that_was_only_indented_anew_is_not_edited() -> None:
    row, sent = sent_back(TWO)
    sent["processes"] = json.dumps(TWO)
    sent[NAME.format(1)] = "last"
    assert save(row, sent)[1]["name"] == "last"


def test_if_rows_and_json_were_edited_the_user_is_asked_and_both_are_kept() -> None:
    row, sent = sent_back(TWO)
    typed = json.dumps(TWO[:1])
    sent["processes"], sent[NAME.format(1)] = typed, "last"
    (problem,) = errors(row, sent)
    assert "Both the rows and the JSON were edited" in problem
    again = fields(str(ProcessTreeForm(sent, instance=row)))
    assert again["processes"] == typed
    assert again[NAME.format(1)] == "last"
    assert save(row, MultiValueDict({**dict(again.lists()), "processes-use": ["json"]})) == TWO[:1]
    by_rows = MultiValueDict({**dict(again.lists()), "processes-use": ["rows"]})
    assert [each["name"] for each in save(row, by_rows)] == ["first", "last"]


def test_rows_and_json_that_were_edited_alike_are_saved() -> None:
    row, sent = sent_back(TWO)
    sent["processes"], sent[NAME.format(1)] = json.dumps([TWO[0], {**TWO[1], "name": "z"}]), "z"
    assert save(row, sent)[1]["name"] == "z"


def test_a_choice_is_no_way_around_broken_json() -> None:
    row, sent = sent_back(TWO)
    sent["processes"], sent[NAME.format(1)] = "[", "last"
    sent["processes-use"] = "json"
    assert "line 1" in errors(row, sent)[0]
    sent["processes-use"] = "rows"
    assert save(row, sent)[1]["name"] == "last"


# --- Two people at once ---------------------------------------------------------------------------


def test_a_page_on_which_nothing_was_edited_leaves_what_somebody_else_has_saved() -> None:
    row, sent = sent_back(TWO)
    ProcessTree.objects.update(processes=TWO[:1])
    assert save(row, sent) == TWO[:1]


@pytest.mark.parametrize("way", ["rows", "json"])
def test_who_edits_what_somebody_else_has_changed_meanwhile_is_warned_once(way: str) -> None:
    row, sent = sent_back(TWO)
    theirs = [{**TWO[0], "name": "theirs"}]
    ProcessTree.objects.update(processes=theirs)
    mine = [TWO[0], {**TWO[1], "name": "mine"}]
    if way == "rows":
        sent[NAME.format(1)] = "mine"
    else:
        sent["processes"] = json.dumps(mine)
    assert "changed by somebody else" in errors(row, sent)[0]
    assert ProcessTree.objects.get().processes == theirs
    row.refresh_from_db()
    again = fields(str(ProcessTreeForm(sent, instance=row)))
    assert save(row, again) == mine


def test_the_options_of_the_form_are_those_of_a_process() -> None:
    known = {*tree_spec.ProcessSpec.__dataclass_fields__} - {"name", "func", "dependencies"}
    assert set(process_rows.OPTIONS) == known
