"""The family of a run, by what a launch says of it."""

import uuid

from dagster import DagsterRun

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration.runs.family_runs import _family_of

FAMILY = str(uuid.uuid4())


def run_of(job_name: str, *, repeats: str | None = None) -> DagsterRun:
    tags = {run_tags.FAMILY: FAMILY}
    return DagsterRun(
        job_name, run_id=FAMILY, parent_run_id=repeats, root_run_id=repeats, tags=tags
    )


def test_a_run_that_repeats_one_of_its_own_tree_is_of_its_family() -> None:
    assert _family_of(run_of("mine", repeats=FAMILY), run_of("mine")) == (FAMILY, [], [])


def test_a_run_that_claims_to_repeat_one_of_another_tree_is_of_no_family() -> None:
    assert _family_of(run_of("mine", repeats=FAMILY), run_of("theirs")) == (None, [], [])
