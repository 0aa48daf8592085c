"""A run with its processes, as its events and the snapshot of its job record them."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogEntry,
    RunRecord,
    RunsFilter,
)

from ...context import sensitive
from ...domain import run_tags as tags
from ...domain.runs import LogPage, ProcessRun, ProcessTry, RunDetail, RunSummary
from ...exceptions import RunNotFound
from .. import errors
from . import history, removed, run_pages
from .summaries import UNKNOWN, all_failures, moment, summaries, summary

STEP_EVENTS = {
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_RESTARTED,
    DagsterEventType.STEP_UP_FOR_RETRY,
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_SKIPPED,
}
"""The events that say what became of a process."""

REPETITIONS = 50
"""How many repetitions of a run are shown."""

_BEGINS = {DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED}

_NOT_REPEATED = "Not repeated: it succeeded in the run that this one continues."


def detail(instance: DagsterInstance, run_id: str) -> RunDetail:
    """Return a run with its processes, in a number of queries that does not grow with these.

    Raises
    ------
    RunNotFound
        No run of a tree has this id.
    """
    record = instance.get_run_record_by_id(run_id)
    if record is None or tags.TREE not in record.dagster_run.tags:
        raise RunNotFound(f"Dagster has no run {run_id!r}.")
    run = record.dagster_run
    has_failed = run.status == DagsterRunStatus.FAILURE
    failures = all_failures(instance, run.run_id) if has_failed else {}
    fault = failures.get("", "") or _canceled(instance, run)
    return RunDetail(
        summary=summary(instance, record, failures),
        processes=tuple(_processes(instance, record, fault)),
        fault=fault,
        context=sensitive.masked(run_pages.context_of(run)),
        root_run_id=run.root_run_id or run.run_id,
        repetitions=tuple(repetitions(instance, run.run_id)),
        follows=tuple(tags.split(tags.value(run.tags, tags.FOLLOWS))),
        followed_by=tuple(tags.split(tags.value(run.tags, tags.FOLLOWED_BY))),
        family=run.tags.get(tags.FAMILY, ""),
        instead_of=run.tags.get(tags.INSTEAD_OF, ""),
        can_resume=run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED),
        revision=tags.ran_revision(run.tags),
    )


def _canceled(instance: DagsterInstance, run: DagsterRun) -> str:
    """Return why a run was canceled; blank if it was not."""
    if run.status != DagsterRunStatus.CANCELED:
        return ""
    for entry in reversed(instance.all_logs(run.run_id, {DagsterEventType.PIPELINE_CANCELED})):
        event = entry.dagster_event
        if event is not None:
            error = getattr(event.event_specific_data, "error", None)
            return errors.fault(error) or event.message or "It was canceled."
    return "It was canceled."


def repetitions(instance: DagsterInstance, run_id: str) -> list[RunSummary]:
    """Return the runs that repeat a run, the newest first."""
    repeat = RunsFilter(tags={tags.PARENT_RUN: run_id})
    return summaries(instance, instance.get_run_records(repeat, limit=REPETITIONS))


def log(
    instance: DagsterInstance, run_id: str, *, most: int, names: Mapping[str, str] | None = None
) -> LogPage:
    """Return the newest lines of a run's log.

    Parameters
    ----------
    instance:
        Where it is recorded.
    run_id:
        The run's id.
    most:
        How many lines at most.
    names:
        The names of its processes, by those of their steps.
    """
    found = instance.get_records_for_run(run_id, limit=most + 1, ascending=False).records
    entries = [record.event_log_entry for record in reversed(found[:most])]
    lines = [history.line(entry) for entry in entries]
    if len(found) <= most and removed.are_of_status(entries):
        record = instance.get_run_record_by_id(run_id)
        if record is not None and removed.has_no_log(instance, record):
            lines = [removed.line(record), *lines]
    known = names or {}
    named = (replace(each, process=known.get(each.process, each.process)) for each in lines)
    return LogPage(tuple(named), is_cut=len(found) > most)


# --- Processes ------------------------------------------------------------------------------------


@dataclass
class _Step:
    """A step of a run, built from its events one after another."""

    key: str
    name: str
    upstream: tuple[str, ...] = ()
    """The keys of the steps that it depends on."""

    status: str = "pending"
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    tries: list[ProcessTry] = field(default_factory=list)
    error: str = ""
    trace: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def see(self, event: DagsterEvent, at: dt.datetime) -> None:
        """Take one event into account."""
        kind = event.event_type
        if kind in _BEGINS:
            self.status, self.ended_at = "running", None
            self.started_at = self.started_at or at
            self.tries.append(ProcessTry(at))
        elif kind == DagsterEventType.STEP_OUTPUT:
            metadata = event.step_output_data.metadata
            self.metadata = {name: value.value for name, value in metadata.items()}
        elif kind == DagsterEventType.STEP_SUCCESS:
            self.status, self.ended_at = str(self.metadata.get(tags.STATUS, "completed")), at
            self.error = self.trace = ""  # of an earlier attempt
        elif kind == DagsterEventType.STEP_FAILURE:
            self.status, self.ended_at = "failed", at
            self._fail(event.step_failure_data.error)
        elif kind == DagsterEventType.STEP_UP_FOR_RETRY:
            self._fail(event.step_retry_data.error)
        elif kind == DagsterEventType.STEP_SKIPPED:
            self.status, self.ended_at = "skipped", at

    def _fail(self, error: Any) -> None:
        self.error = errors.fault(error) or UNKNOWN
        self.trace = "" if error is None else errors.trace(error)
        if self.tries:
            self.tries[-1] = replace(self.tries[-1], error=self.error, trace=self.trace)

    def as_process(self, names: Mapping[str, str], note: str) -> ProcessRun:
        """Return what became of its process."""
        remark = str(self.metadata.get(tags.REASON, "")) or note
        has_failed = self.status == "failed"
        prefix = f"{tags.RESPONSE}/"
        return ProcessRun(
            name=self.name,
            step=self.key,
            status=self.status,
            dependencies=tuple(names.get(each, each) for each in self.upstream),
            started_at=self.started_at,
            ended_at=self.ended_at,
            seconds=self._seconds(),
            result=str(self.metadata.get(tags.RESULT, "")),
            error=self.error or (remark if has_failed else ""),
            trace=self.trace,
            note="" if has_failed else remark,
            tries=tuple(self.tries),
            response_variables={
                name.removeprefix(prefix): str(value)
                for name, value in self.metadata.items()
                if name.startswith(prefix)
            },
        )

    def _seconds(self) -> float | None:
        written = self.metadata.get(tags.SECONDS)
        if isinstance(written, int | float):
            return float(written)
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


def _processes(instance: DagsterInstance, record: RunRecord, fault: str) -> list[ProcessRun]:
    """Return what became of each process: those of the run's job, and others that it executed.

    If the run's log was removed, that is not known, and there is none.
    """
    run = record.dagster_run
    entries = instance.all_logs(run.run_id, STEP_EVENTS)
    if not entries and removed.has_no_log(instance, record):
        return []
    steps = {step.key: step for step in _planned(instance, run)}
    for entry in entries:
        _see(steps, entry)
    names = {step.key: step.name for step in steps.values()}
    chosen = set(run.step_keys_to_execute or steps)
    notes = dict(_notes(steps, chosen, run.is_finished, fault))
    return [step.as_process(names, notes.get(step.key, "")) for step in steps.values()]


def _see(steps: dict[str, _Step], entry: EventLogEntry) -> None:
    key, event = entry.step_key, entry.dagster_event
    if key is None or event is None:
        return
    at = moment(entry.timestamp)
    assert at is not None
    steps.setdefault(key, _Step(key, key)).see(event, at)


def _planned(instance: DagsterInstance, run: DagsterRun) -> Iterator[_Step]:
    """Yield the steps of the job as it was when the run was made, each after its upstream ones."""
    if not run.job_snapshot_id or not instance.has_job_snapshot(run.job_snapshot_id):
        return
    snapshot = instance.get_job_snapshot(run.job_snapshot_id)
    defined = snapshot.node_defs_snapshot.op_def_snaps
    names = {each.name: each.tags.get(tags.PROCESS, each.name) for each in defined}
    nodes = {each.node_name: each for each in snapshot.dep_structure_snapshot.node_invocation_snaps}
    upstream = {
        name: tuple(
            output.node_name
            for given in node.input_dep_snaps
            for output in given.upstream_output_snaps
        )
        for name, node in nodes.items()
    }
    for name in _in_order(upstream):
        yield _Step(name, names.get(nodes[name].node_def_name, name), upstream[name])


def _in_order(upstream: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        return list(TopologicalSorter(upstream).static_order())
    except CycleError:  # what Dagster has stored has none
        return list(upstream)


def _notes(
    steps: Mapping[str, _Step], chosen: set[str], is_finished: bool, fault: str
) -> Iterator[tuple[str, str]]:
    """Settle the steps of which nothing is recorded; yield why, by their keys."""
    failed: dict[str, str] = {}
    for step in steps.values():
        if step.status == "failed":
            failed[step.key] = step.name
        elif step.status == "pending" and step.key not in chosen:
            step.status = "skipped"
            yield step.key, _NOT_REPEATED
        elif step.status == "pending" and is_finished:
            cause = next((failed[each] for each in step.upstream if each in failed), None)
            step.status = "skipped"
            if cause is not None:
                failed[step.key] = cause
            yield step.key, f"Dependency failed: {cause}" if cause else fault or "It was not begun."
        elif step.status == "running" and is_finished:
            step.status, step.error = "failed", step.error or fault or "The run ended before it."
            failed[step.key] = step.name
