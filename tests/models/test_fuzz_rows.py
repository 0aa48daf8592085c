"""Whatever rows say, nothing outside of the allow-lists is imported, called or read.

Each test runs a few hundred examples; ``PROCTREE_FUZZ_EXAMPLES`` is how many times as many.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import override_settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proctree_dagster import functions
from proctree_dagster.exceptions import FunctionError, ProctreeError
from proctree_dagster.models import ProcessTree, Trigger
from proctree_dagster.models.validation import trigger_validation
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.services import broken_rows
from proctree_dagster.testing import run_tree
from tests.tools.code_files import code_of

pytestmark = pytest.mark.django_db

CODE = code_of(__file__)

TIMES = int(os.environ.get("PROCTREE_FUZZ_EXAMPLES", "1"))


def fuzz(examples: int) -> settings:
    """Return how a test is fuzzed: the fixtures are the same for all of its examples."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# --- A world with sentinels -----------------------------------------------------------------------

RUNS = "import builtins\nbuiltins.sentinel_events.append('it was run as a script')\n"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whatever the sentinels noticed, while only the package ``fuzzed`` is allowed."""
    noticed: list[str] = []
    monkeypatch.setattr("builtins.sentinel_events", noticed, raising=False)
    before = set(sys.modules)
    allowed, sentinel = ((CODE / f"{each}.py").read_text() for each in ("processes", "sentinel"))
    for name, text in {
        "fuzzed/__init__.py": "from fuzzed.processes import good as exported\n",
        "fuzzed/processes.py": allowed,
        "fuzzed/__main__.py": RUNS,
        "fuzzedmore/__init__.py": sentinel,
        "sentinel_known.py": sentinel,
        "sentinel_unknown/__init__.py": sentinel,
        "sentinel_unknown/deep.py": sentinel,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    functions.autodiscover()
    importlib.import_module("fuzzed.processes")
    noticed.clear()
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["fuzzed"]}):
        yield noticed
    for name in set(sys.modules) - before:
        if name.startswith(("fuzzed", "sentinel_")):
            del sys.modules[name]


# --- References -----------------------------------------------------------------------------------

MODULES = [
    *("fuzzed", "fuzzed.processes", "fuzzed.gone", "fuzzed.__main__", "fuzzed.processes.Shop"),
    *("fuzzedmore", "sentinel_known", "sentinel_unknown", "sentinel_unknown.deep"),
    *("fuzzed.sentinel_unknown", "os", "builtins", "subprocess", "importlib", "__main__"),
    *("django.core.management", "proctree_dagster.functions", "tests.models.test_fuzz_rows"),
]
PARTS = [
    *("good", "exported", "cached", "Shop", "Shelf", "fair", "shop", "bare", "Bare", "table"),
    *(
        "steal",
        "_renamed",
        "stolen",
        "sentinel_known",
        "Vault",
        "vault",
        "open",
        "opened",
        "secret",
    ),
    *("of_class", "half", "bound", "wrapped", "func", "cache_clear", "mro", "system", "eval"),
    *("__globals__", "__class__", "__builtins__", "__subclasses__", "__init__", "__call__"),
    *("__wrapped__", "__dict__", "__import__", "__loader__", "__getattribute__", "get", "pop"),
]

odd = st.text(max_size=6) | st.sampled_from([" ", "..", "\n", "good()", "Shop[0]", "ſhop", "<a>"])
modules = st.sampled_from(MODULES) | odd | st.lists(st.sampled_from(MODULES) | odd).map(".".join)
paths = st.lists(st.sampled_from(PARTS) | odd, min_size=1, max_size=4).map(".".join)
references = (
    st.tuples(modules, paths).map(":".join)
    | st.tuples(st.just("fuzzed.processes"), paths).map(":".join)
    | st.sampled_from(["registered", "steal", "<unnameable> steal 12345678", ":", "::"])
    | odd
)


def comes_from_the_allow_list(func: Any) -> bool:
    """Return whether a function may have been found: registered, or from an allowed module."""
    return functions._is_registered(func) or func.__module__.partition(".")[0] == "fuzzed"


@fuzz(600)
@given(reference=references)
@example("fuzzed.processes:steal")
@example("fuzzed.processes:Shop.stolen")
@example("fuzzed.processes:Shop.open")
@example("fuzzed.processes:Bare.of_class")
@example("fuzzed.processes:bare")
@example("fuzzed.processes:shop.opened")
@example("fuzzed.processes:table.pop")
@example("fuzzed.__main__:good")
def test_a_reference_leads_to_an_allowed_function_or_to_an_error(
    events: list[str], reference: str
) -> None:
    try:
        found: Any = functions.resolve(reference)
    except FunctionError:
        found = None
    assert found is None or comes_from_the_allow_list(found)
    if found is not None and not functions._is_registered(found):
        assert found() == "good"
    assert events == []
    assert "sentinel_unknown" not in sys.modules


# --- Rows -----------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | odd
)
anything = st.recursive(
    scalars | references,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd, inner, max_size=3),
    max_leaves=6,
)
plausible = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c", "registered"]), "func": references},
    optional={
        "validation": st.lists(references, max_size=2),
        "outdated_check": references,
        "dependencies": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2, unique=True),
        "cache_key": st.sampled_from(["{a}", "{a.__class__}", "{missing}", "x"]),
        "response_vars": st.dictionaries(odd, st.fixed_dictionaries({"key": paths}), max_size=2),
        "metadata": anything,
    },
)
processes = st.lists(plausible, min_size=1, max_size=3, unique_by=lambda each: str(each["name"]))
ran = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "b", "c"]),
            "func": st.sampled_from(
                ["fuzzed.processes:good", "fuzzed:exported", "fuzzed.processes:Shop.Shelf.fair"]
            )
            | references,
        },
        optional={"validation": st.lists(references, max_size=1), "outdated_check": references},
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda each: str(each["name"]),
)


def saved(said: Any) -> ProcessTree:
    """Return a row that says this, put there past every validation."""
    ProcessTree.objects.all().delete()
    made = ProcessTree.objects.create(name="t", processes=[])
    ProcessTree.objects.update(processes=said)
    made.refresh_from_db()
    return made


@fuzz(60)
@given(said=processes | anything.filter(lambda value: value is not None))
def test_reading_checking_and_listing_a_row_reaches_nothing_else(
    events: list[str], said: Any
) -> None:
    row = saved(said)
    record = from_row(row)
    assert record.problem or all(
        comes_from_the_allow_list(func)
        for process in record.processes.values()
        for func in (process.func, *process.validations, process.outdated_check)
        if func is not None
    )
    try:
        row.full_clean()
    except ValidationError:
        assert record.problem
    assert bool(broken_rows.findings()) <= bool(record.problem)
    assert events == []
    assert "sentinel_unknown" not in sys.modules


@fuzz(12)
@given(said=ran)
def test_running_a_row_calls_nothing_else(events: list[str], said: Any) -> None:
    saved(said)
    results = run_tree("t", {"tenant": 1})
    assert set(results["results"].values()) <= {"good", "registered"}
    assert events == []
    assert "sentinel_unknown" not in sys.modules


@fuzz(150)
@given(reference=references | anything)
def test_a_custom_trigger_reaches_nothing_else(events: list[str], reference: Any) -> None:
    configuration = {"function": reference}
    found = trigger_validation.problems("custom", configuration)
    trigger = Trigger(name="t", trigger_type="custom", configuration=configuration)
    try:
        trigger.full_clean()
    except (ValidationError, ProctreeError):
        assert found
    if not found:
        assert comes_from_the_allow_list(functions.resolve(reference))
    assert events == []
    assert "sentinel_unknown" not in sys.modules
