"""Dagster's internals: each name is watched, and what needs one that is gone is switched off."""

import ast
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster._core.storage import tags

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import dagster_features, dagster_internals
from proctree_dagster.orchestration.dagster_features import FEATURES, QUIET_CONSOLE, Feature
from proctree_dagster.orchestration.dagster_internals import CORE, NAMES
from proctree_dagster.orchestration.inspection import missing_names
from scripts import features as page
from tests.orchestration.without_internals import GONE
from tests.tools import TOP

BY_KEY = {feature.key: feature for feature in FEATURES}
NEEDED = [(feature, name) for feature in FEATURES for name in feature.names]


# A Dagster that lacks something


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what processes have seen that ran a tree without a feature, by its key."""
    folder = str(tmp_path_factory.mktemp("without"))
    command = [sys.executable, "-m", "tests.orchestration.without_internals", folder]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("without", ["complete", *BY_KEY, "nothing"])
def test_the_code_location_loads_and_a_tree_runs(seen: dict[str, Any], without: str) -> None:
    found = seen[without]
    assert "error" not in found, found["error"]
    assert found["jobs"] == ["small"]
    assert found["results"] == {"one": 1, "two": 2}
    assert found["recorded"] == "SUCCESS"
    assert all(found["instead"].values()), found["instead"]


@pytest.mark.parametrize("key", BY_KEY)
def test_the_doctor_and_the_system_check_name_what_is_off_why_and_what_is_worse(
    seen: dict[str, Any], key: str
) -> None:
    feature = BY_KEY[key]
    [said] = seen[key]["doctor"]
    assert said.startswith(f"{feature.title} is off")
    assert said.endswith(feature.without)
    # What only behaves differently, the check can't see: it does not import Dagster.
    assert seen[key]["check"] == ([said] if feature.names else [])


@pytest.mark.parametrize("key", BY_KEY)
def test_what_is_off_is_logged_once_and_nothing_else_is(seen: dict[str, Any], key: str) -> None:
    assert seen[key]["said"] in ([], seen[key]["doctor"])


def test_with_all_that_it_needs_nothing_is_said(seen: dict[str, Any]) -> None:
    assert seen["complete"]["doctor"] == [
        "Dagster's internals are as proctree-dagster expects them."
    ]
    assert (seen["complete"]["check"], seen["complete"]["said"]) == ([], [])


def test_without_anything_all_of_it_is_named(seen: dict[str, Any]) -> None:
    titles = [feature.title for feature in FEATURES]
    assert [each.split(" is off")[0] for each in seen["nothing"]["doctor"]] == titles


# One name that is gone


@pytest.mark.parametrize(
    ("feature", "name"), NEEDED, ids=[f"{feature.key}-{name}" for feature, name in NEEDED]
)
def test_each_name_that_is_gone_is_found(
    feature: Feature, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, name, GONE)
    assert feature.problems() == [f"{GONE}.{name} is not there."]
    assert feature.message(feature.problems()) in [each.msg for each in missing_names.messages()]


@pytest.mark.parametrize("name", CORE)
def test_without_what_every_run_needs_an_error_says_which_dagster_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, name, GONE)
    with pytest.raises(ImportError, match=rf"{GONE}\.{name}.*pip install 'dagster<1.14,>=1.13.21'"):
        getattr(dagster_internals, name)
    [error] = missing_names.messages()
    assert (error.id, error.is_serious()) == ("proctree_dagster.E010", True)
    assert f"{GONE}.{name}" in error.msg
    assert "dagster<1.14,>=1.13.21" in str(error.hint)


def test_what_behaves_differently_is_off_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    different = replace(QUIET_CONSOLE, differences=lambda: ["It is blue.", "It is round."])
    assert dagster_features.why_off(different) == "It is blue. It is round."
    assert not dagster_features.is_on(different)
    assert not dagster_features.is_on(different)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "It is blue. It is round." in record.getMessage()


def test_what_can_not_be_examined_is_off_and_its_trace_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> list[str]:
        raise TypeError("It takes no arguments.")

    [problem] = replace(QUIET_CONSOLE, differences=fail).problems()
    assert "can't be examined" in problem
    assert "It takes no arguments." in caplog.text


# This Dagster


@pytest.mark.parametrize("feature", FEATURES, ids=BY_KEY)
def test_this_dagster_has_what_a_feature_needs(feature: Feature) -> None:
    assert feature.problems() == []


@pytest.mark.parametrize("name", CORE)
def test_this_dagster_has_what_every_run_needs(name: str) -> None:
    assert getattr(dagster_internals, name) is not None


def test_the_system_check_finds_every_name_without_importing_dagster() -> None:
    program = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; "
        "import django; django.setup(); "
        "from proctree_dagster.orchestration.inspection import missing_names; "
        "print(missing_names.messages(), 'dagster' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True)
    assert done.stdout.strip() == "[] False", done.stderr


def test_the_tags_of_dagster_are_called_as_it_calls_them() -> None:
    ours = {
        run_tags.CODE_SERVER: tags.GRPC_INFO_TAG,
        run_tags.PARENT_RUN: tags.PARENT_RUN_ID_TAG,
        run_tags.RESUMES: tags.RESUME_RETRY_TAG,
        run_tags.ROOT_RUN: tags.ROOT_RUN_ID_TAG,
        run_tags.SCHEDULE_NAME: tags.SCHEDULE_NAME_TAG,
        run_tags.SENSOR_NAME: tags.SENSOR_NAME_TAG,
        run_tags.USER: tags.USER_TAG,
        run_tags.WILL_RETRY: tags.WILL_RETRY_TAG,
    }
    assert {ours: theirs for ours, theirs in ours.items() if ours != theirs} == {}


# The table


def test_each_name_is_core_or_of_a_feature_and_none_is_both() -> None:
    of_features = {name for _, name in NEEDED}
    assert of_features | set(CORE) == NAMES.keys()
    assert of_features & set(CORE) == set()


def test_type_checkers_see_each_name_where_it_is_imported_from() -> None:
    tree = ast.parse(Path(dagster_internals.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name: typed.get(name) for name in NAMES} == NAMES


def test_an_unknown_name_is_no_name_of_dagsters() -> None:
    with pytest.raises(AttributeError, match="DagsterInstance"):
        getattr(dagster_internals, "DagsterInstance")  # noqa: B009  # mypy knows that it is not there


def test_the_page_lists_each_feature_as_its_entry_says_it() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run 'make docs'"
