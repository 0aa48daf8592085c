"""The functions that a tree may name, to choose from."""

import subprocess
import sys
from functools import partial, wraps
from typing import Any

import pytest
from pytest_django import Settings

from proctree_dagster import functions
from proctree_dagster.services import function_listing
from proctree_dagster.services.function_listing import matching, place
from tests.app import processes


def references(text: str = "", most: int = 1000) -> list[str]:
    return [each.reference for each in matching(text, most).functions]


def test_registered_functions_come_first_then_those_of_modules_of_processes() -> None:
    found = references()
    ranks = [function_listing._rank(each) for each in found]
    assert ranks == sorted(ranks)
    registered = [each for each in found if ":" not in each]
    assert "registered" in registered
    assert found[: len(registered)] == registered
    assert "tests.app.processes:one" in found
    assert "example.ledger.processes:fetch_journals" in found


def test_each_listed_function_can_be_named() -> None:
    for reference in references():
        functions.resolve(reference)


def test_of_a_module_its_own_public_functions_are_listed() -> None:
    found = references("tests.app.processes:")
    assert found
    assert not [each for each in found if each.partition(":")[2].startswith("_")]
    assert not [each for each in references() if "os:" in each or "<" in each]


def test_what_is_not_allowed_is_not_listed(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": ["example.ledger"]}
    assert not references("tests.app.processes")
    assert references("example.ledger.processes")


def test_a_search_is_bounded_and_says_how_many_are_left_out() -> None:
    everything = len(references("PROCESSES:"))
    found = matching("PROCESSES:", most=3)
    assert len(found.functions) == 3
    assert found.more == everything - 3


def test_nothing_is_imported_for_it_but_the_modules_of_processes() -> None:
    code = (
        "import django, sys; django.setup()\n"
        "from proctree_dagster.services import function_listing\n"
        "before = set(sys.modules)\n"
        "function_listing.matching()\n"
        "print([each for each in set(sys.modules) - before if each.endswith('imported_by_nobody')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


def decorated(func: Any) -> Any:
    @wraps(func)
    def inner(**context: Any) -> Any:
        return func(**context)

    return inner


@pytest.mark.parametrize("func", [processes.one, decorated(processes.one)])
def test_the_place_is_relative_to_the_project_and_that_of_the_function_itself(func: Any) -> None:
    line = processes.one.__code__.co_firstlineno
    assert place(func) == f"tests/app/processes.py:{line}"


def test_what_has_no_code_of_its_own_has_no_place() -> None:
    for func in (len, partial(processes.one)):
        assert place(func) == ""
