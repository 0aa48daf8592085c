"""One table: what each rule of a process means for its status, its run, and what the UI shows."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from dagster import DagsterInstance

from proctree_dagster.domain import run_tags
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_calls_yet")]

COMPLETED = ["STEP_START", "STEP_OUTPUT", "STEP_SUCCESS"]
FAILED = ["STEP_START", "STEP_FAILURE"]
RETRIED = ["STEP_UP_FOR_RETRY", "STEP_RESTARTED"]
ODD = "Process 'p': its result did not pass: is_even: 1 is odd"
ALWAYS = "ValueError: this process always fails"


@dataclass
class Rule:
    """A process ``p``, and one behind it that shows what it is given."""

    name: str
    func: Any
    status: str
    run: str = "SUCCESS"
    behind: Any = None
    """What the process behind it is given; ``None`` if it does not run."""

    error: str | None = None
    reason: str | None = None
    """What the UI shows as the reason; the error of a process whose step succeeds."""

    steps: list[str] = field(default_factory=lambda: COMPLETED)
    options: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    runs: int = 1
    """How often the tree is run; the last time counts."""


RULES = [
    Rule("completes", processes.one, "completed", behind={"p": 1}),
    Rule("returns None", processes.nothing, "completed", behind={"p": None}),
    Rule("returns 0", processes.zero, "completed", behind={"p": 0}),
    Rule("fails", processes.fail, "failed", "FAILURE", error=ALWAYS, steps=FAILED),
    Rule(
        "fails and may",
        processes.fail,
        "failed",
        behind={},
        error=ALWAYS,
        reason=ALWAYS,
        options={"required": False},
    ),
    Rule(
        "is up to date",
        processes.one,
        "skipped",
        behind={},
        reason="Up to date",
        options={"outdated_check": processes.up_to_date},
    ),
    Rule(
        "is out of date",
        processes.one,
        "completed",
        behind={"p": 1},
        options={"outdated_check": processes.out_of_date},
    ),
    Rule(
        "is cached",
        processes.one,
        "cached",
        behind={"p": 1},
        options={"cache_key": "k", "cache_ttl": 60},
        runs=2,
    ),
    Rule(
        "has a bad cache key",
        processes.one,
        "failed",
        "FAILURE",
        error="CacheKeyError: Process 'p': its cache key 'k-{x}' names a field that the context "
        "lacks ('x'); the context has nothing.",
        steps=FAILED,
        options={"cache_key": "k-{x}"},
    ),
    Rule(
        "passes its check",
        processes.two,
        "completed",
        behind={"p": 2},
        options={"validation": processes.is_even},
    ),
    Rule(
        "does not pass its check",
        processes.one,
        "failed",
        "FAILURE",
        error=f"ValidationFailed: {ODD}",
        steps=FAILED,
        options={"validation": processes.is_even},
    ),
    Rule(
        "does not pass its check and may",
        processes.one,
        "failed",
        behind={},
        error=f"ValidationFailed: {ODD}",
        reason=f"ValidationFailed: {ODD}",
        options={"validation": processes.is_even, "required": False},
    ),
    Rule(
        "succeeds at the second try",
        processes.flaky,
        "completed",
        behind={"p": "after 2", "times": 1},
        steps=["STEP_START", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_OUTPUT", "STEP_SUCCESS"],
        options={"retries": 1},
        context={"times": 1},
    ),
    Rule(
        "takes too long",
        processes.pause,
        "failed",
        "FAILURE",
        error="ProcessTimeout: Process 'p' took longer than its timeout of 0.1 seconds and was "
        "abandoned; what it is doing can't be stopped.",
        steps=FAILED,
        options={"timeout": 0.1},
        context={"seconds": 20},
    ),
    Rule(
        "lacks an argument",
        processes.needs,
        "failed",
        "FAILURE",
        error="ArgumentError: Process 'p': its function 'needs' needs 'argument', but context and "
        "dependencies gave 'other'. Add it to the context, name the process that returns it as a "
        "dependency, or give the argument a default.",
        steps=FAILED,
        context={"other": 1},
    ),
    Rule("can't be kept", processes.unpicklable, "completed", "FAILURE", behind="failed"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_process_that(rule: Rule, instance: DagsterInstance) -> None:
    required = rule.options.get("required", True)
    (
        ProcessTreeInstance("tree")
        .add_process("p", rule.func, **rule.options)
        .add_process("behind", processes.echo, ["p"], required=required)
        .save()
    )
    for _ in range(rule.runs):
        results = ProcessTreeManager.execute_tree("tree", rule.context)

    behind = (
        "failed" if rule.behind == "failed" else "skipped" if rule.behind is None else "completed"
    )
    assert results["status"] == {"p": rule.status, "behind": behind}
    assert results["success"] is (rule.run == "SUCCESS")
    assert results["errors"].get("p") == rule.error
    assert ("p" in results["results"]) is (rule.status in ("completed", "cached"))
    assert results["cached"]["p"] is (rule.status == "cached")
    if behind == "completed":
        assert results["results"]["behind"] == {**rule.context, **rule.behind}
    if behind == "skipped":
        assert results["errors"]["behind"] == "Dependency failed: p"

    run = instance.get_run_by_id(results["run_id"])
    assert run is not None
    assert run.status.value == rule.run
    assert run.tags.get(run_tags.FAILED_OPTIONAL) == (
        "p" if rule.status == "failed" and rule.run == "SUCCESS" else None
    )
    events = [
        event.dagster_event
        for event in instance.all_logs(run.run_id)
        if event.step_key == "p" and event.dagster_event is not None
    ]
    kinds = [event.event_type_value for event in events]
    assert [kind for kind in kinds if kind in {*COMPLETED, *FAILED, *RETRIED}] == rule.steps
    for event in events:
        if event.event_type_value == "STEP_OUTPUT":
            shown = {key: value.value for key, value in event.step_output_data.metadata.items()}
            assert shown[run_tags.STATUS] == rule.status
            assert shown.get(run_tags.REASON) == rule.reason
