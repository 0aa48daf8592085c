"""The snapshots of jobs as text: what Dagster stores of a job, written in half the time."""

import copy
import hashlib
import json
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from dagster import DagsterType, JobDefinition, serialize_value

from . import dagster_internals as internals
from .dagster_features import JOB_SNAPSHOTS, is_on

if TYPE_CHECKING:
    from .dagster_internals import ConfigType


def id_of(text: str) -> str:
    """Return the id of a snapshot, as ``JobSnap.snapshot_id``, which writes it once more."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def _no_config() -> str:
    return serialize_value(internals.ConfigSchemaSnapshot(all_config_snaps_by_key={}))


@cache
def _no_types() -> str:
    return serialize_value(internals.DagsterTypeNamespaceSnapshot({}))


def snapshot_text(job: JobDefinition) -> str:
    """Return a job's snapshot as Dagster writes it, in half the time.

    More than half of a small job's snapshot are types of configuration and of values, and most jobs
    have the same ones. Each is serialized once, cached as text, and inserted into the snapshot.

    Parameters
    ----------
    job:
        The full job, which is not changed.
    """
    if not is_on(JOB_SNAPSHOTS):
        return serialize_value(job.get_job_snapshot())
    mapping = job.config_mapping
    outer = None if mapping is None else mapping.config_schema.config_type
    if outer is None:  # a translator's own job, whose configuration no mapping hides
        return serialize_value(internals.JobSnap.from_job_def(job))
    rest = copy.copy(job)
    # Not asked of the job, which would also make the schema that the mapping hides.
    rest._run_config_schema = internals.RunConfigSchema(outer, {}, {}, mapping)  # type: ignore[assignment]
    rest.all_dagster_types = list  # type: ignore[method-assign]  # none
    _, config = internals.construct_config_type_dictionary(job.all_node_defs, outer)
    text = serialize_value(internals.JobSnap.from_job_def(rest))
    fillings = {
        _no_config(): {key: _write_config_type(each) for key, each in config.items()},
        _no_types(): {each.key: _write_dagster_type(each) for each in job.all_dagster_types()},
    }
    for gap, filling in fillings.items():
        if text.count(gap) != 1:  # metadata that looks like it, or another version of Dagster
            return serialize_value(internals.JobSnap.from_job_def(job))
        items = ", ".join(f"{json.dumps(key)}: {filling[key]}" for key in sorted(filling))
        text = text.replace(gap, gap.replace("{}", f"{{{items}}}"))
    return text


@lru_cache(maxsize=1000)
def _write_config_type(config_type: "ConfigType") -> str:
    return serialize_value(internals.snap_from_config_type(config_type))


def _write_dagster_type(dagster_type: DagsterType) -> str:
    kept = _builtin_types().get(id(dagster_type))  # to Dagster, types of one name are equal
    return kept or serialize_value(internals.build_dagster_type_snap(dagster_type))


@lru_cache(maxsize=1)
def _builtin_types() -> dict[int, str]:
    return {
        id(each): serialize_value(internals.build_dagster_type_snap(each))
        for each in internals.ALL_RUNTIME_BUILTINS
    }
