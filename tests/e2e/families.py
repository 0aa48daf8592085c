"""Families of five trees, whose runs must each be made once, whatever happens to the daemon."""

import shutil
from pathlib import Path

from dagster import RunRecord

from proctree_dagster.domain import run_tags
from proctree_dagster.models import OutboxRun, OutboxState
from tests.e2e.accidents import Accidents
from tests.tools.code_files import code_of

CODE = code_of(__file__)

BEFORE = {"a": "", "b": "a", "c": "a", "d": "bc", "s": ""}
"""The trees of a family, and what each waits for; s runs beside a."""


class Families(Accidents):
    """Families that begin with a schedule."""

    def __init__(self, folder: Path, families: int) -> None:
        super().__init__(folder, families)
        shutil.copy(CODE / "e2e_functions.py", folder)

    def prepare(self) -> None:
        """Make the trees. None is due for hours, but for the due times that they are given."""
        self.migrate()
        self.shell(CODE / "save_families.py", FAMILIES=str(self.trees))

    def settled(self) -> bool:
        """Whether no due time and nothing in the outbox waits, and no run is under way."""
        waiting = OutboxRun.objects.using("stack").filter(state=OutboxState.WAITING)
        return super().settled() and not waiting.exists() and not self._is_cut_short()

    def _is_cut_short(self) -> bool:
        """Whether a run that was handed over has failed before it started: another is coming."""
        delivered = OutboxRun.objects.using("stack").filter(state=OutboxState.DELIVERED)
        records = self.records()
        return any(records[str(row.run_id)].start_time is None for row in delivered)

    def records(self) -> dict[str, RunRecord]:
        """Return what Dagster knows of each run."""
        return {each.dagster_run.run_id: each for each in self.instance.get_run_records()}

    def assert_each_family_ran_once(self) -> None:
        """Of each due time that was given five trees ran, each once, in order, linked both ways."""
        self._idle_rows()
        assert self.taken.keys() == set(self.given)
        called = self.calls()
        assert {family for _, family, _ in called} == set(self.taken.values())
        for (job, _), family in self.taken.items():
            number = job.partition("_")[2]
            runs = [(job, run) for job, each, run in called if each == family]
            assert sorted(job for job, _ in runs) == [f"{letter}_{number}" for letter in "abcds"]
            self._assert_order_and_links(family, {job[0]: run for job, run in runs})

    def _assert_order_and_links(self, family: str, runs: dict[str, str]) -> None:
        records = self.records()
        for letter, run_id in runs.items():
            run = records[run_id].dagster_run
            assert run.tags[run_tags.FAMILY] == family
            for each in BEFORE[letter]:
                ended, started = records[runs[each]].end_time, records[run_id].start_time
                assert ended is not None
                assert started is not None
                assert ended <= started, f"{letter} began before {each} had ended"
        follows = {
            letter: set(run_tags.split(records[run_id].dagster_run.tags.get(run_tags.FOLLOWS)))
            for letter, run_id in runs.items()
        }
        # Where a run failed before it started, its place is taken by another.
        place = {
            run: records[run].dagster_run.tags.get(run_tags.INSTEAD_OF, run) for run in records
        }
        known = {each for run in runs.values() for each in (run, place[run])}
        assert {letter: len(ids) for letter, ids in follows.items()} == {
            **{"a": 0, "b": 1, "c": 1, "d": 2, "s": 1}
        }
        assert set().union(*follows.values()) <= known
