"""Runs that ended long ago, made without executing them."""

import datetime as dt
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import dagster_internals as internals
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.pruning.removal import LOGS
from proctree_dagster.orchestration.runs import create
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE
CANCELED, STARTED = DagsterRunStatus.CANCELED, DagsterRunStatus.STARTED


def tree(name: str = "close", keep_runs: str = "") -> ProcessTree:
    made = ProcessTreeInstance(name, overwrite=True, keep_runs=keep_runs)
    return made.add_process("only", func=processes.one).save()


class History:
    """The runs of an instance, and what belongs to them."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self._of_jobs: dict[str, dict[str, Any]] = {}

    def run(
        self,
        row: ProcessTree,
        days: float = 100,
        status: DagsterRunStatus = SUCCESS,
        tags: Mapping[str, str] | None = None,
        repeats: str | None = None,
        root: str | None = None,
    ) -> str:
        """Record a run that ended so many days ago, with a log and a result; return its id."""
        is_repetition = {run_tags.PARENT_RUN: repeats, run_tags.ROOT_RUN: root or repeats}
        run = self.instance.create_run(
            job_name=row.job_name,
            run_id=str(uuid.uuid4()),
            run_config={"context": {}},
            status=status,
            tags={
                run_tags.TREE: row.name,
                **(tags or {}),
                **({name: each for name, each in is_repetition.items() if each}),
            },
            root_run_id=root or repeats,
            parent_run_id=repeats,
            step_keys_to_execute=None,
            **self._of_job(row),
        )
        self.write_files(run.run_id)
        self.instance.report_engine_event("It was there.", run)
        if status not in (STARTED,):
            self.end(run.run_id, days)
        return run.run_id

    def end(self, run_id: str, days: float) -> None:
        table = internals.RunsTable
        ended = (timezone.now() - dt.timedelta(days=days)).timestamp()
        storage: Any = self.instance.run_storage
        with storage.connect() as connection:
            connection.execute(
                table.update().where(table.c.run_id == run_id).values(end_time=ended)
            )

    def write_files(self, run_id: str) -> None:
        folder = self.folder / run_id
        for path in (folder / "only" / "result", folder / LOGS / "only.out"):
            path.parent.mkdir(parents=True)
            path.write_text("x" * 1000)

    @property
    def folder(self) -> Path:
        return Path(self.instance.storage_directory())

    def shard(self, run_id: str) -> Path:
        storage: Any = self.instance.event_log_storage
        return Path(storage.path_for_shard(run_id))

    def ids(self) -> set[str]:
        """The runs that there are."""
        return {run.run_id for run in self.instance.get_runs()}

    def traces_of(self, run_id: str) -> list[str]:
        """Return in which tables, and as which files, something of a run is left."""
        found = []
        run_storage: Any = self.instance.run_storage
        events: Any = self.instance.event_log_storage
        for connect, table in (
            (run_storage.connect, internals.RunsTable),
            (run_storage.connect, internals.RunTagsTable),
            (events.index_connection, internals.SqlEventLogStorageTable),
        ):
            query = sqlalchemy.select(sqlalchemy.func.count()).where(table.c.run_id == run_id)
            with connect() as connection:
                if connection.execute(query).scalar():
                    found.append(table.name)
        home = Path(self.instance.root_directory)
        return found + [path.name for path in home.rglob(f"*{run_id}*")]

    def _of_job(self, row: ProcessTree) -> dict[str, Any]:
        if row.job_name not in self._of_jobs:
            job = translator().job(tree_records.from_row(row))
            plan = internals.create_execution_plan(job, {"context": {}})
            self._of_jobs[row.job_name] = create.of_job(job, plan)
        return self._of_jobs[row.job_name]


def run_of(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run
