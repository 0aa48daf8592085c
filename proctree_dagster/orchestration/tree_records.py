"""Records of trees for the translator: the spec and the functions, or the problem."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.urls import NoReverseMatch, reverse

from .. import context as contexts
from .. import functions
from ..domain.names import dagster_name
from ..domain.texts import explain
from ..domain.tree_spec import ProcessSpec, TreeSpec, parse, required_in_effect, revision
from ..exceptions import ProctreeError
from ..models import ProcessTree
from ..models.context_schema import ContextSchema, schema_of
from ..models.validation import tree_validation
from ..process.caching import UNSAID, MadeBy, Maker
from ..process.run import Function, Process
from ..services import process_gate
from ..services.stand_ins import StandIns, reference_of
from ..support import project

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TreeRecord:
    """One tree for the translator, which needs no further query or import."""

    name: str
    """The tree's name as written."""

    job_name: str
    """Its job's name in Dagster."""

    description: str
    """The tree's description."""

    revision: str
    """Hash of the tree's content and of its schedule's default context."""

    default_context: Mapping[str, Any]
    """The schedule's context as JSON."""

    spec: TreeSpec | None
    """The tree's spec; ``None`` if it is broken."""

    processes: Mapping[str, Process] = field(default_factory=dict)
    """The processes, ready to be run, by their names as written."""

    problem: str | None = None
    """Why the tree is broken."""

    admin_url: str | None = None
    """The address of the tree in the Django admin, if the site's address is known."""

    @property
    def context_schema(self) -> ContextSchema:
        """The schema of a run's context: what functions take, and the schedule's keys."""
        if self.spec is None:
            return ContextSchema()
        found: dict[str, Function] = {}
        for process in self.processes.values():
            found[process.spec.func] = process.func
            if process.outdated_check is not None:
                found[str(process.spec.outdated_check)] = process.outdated_check
        return schema_of(self.spec, found, self.default_context)


def from_row(row: ProcessTree, registry: Mapping[str, Function] | None = None) -> TreeRecord:
    """Return the record of a saved tree; that of a broken tree has the problem.

    Parameters
    ----------
    row:
        The tree; its schedule should be loaded with it.
    registry:
        Functions given by the caller, by reference, key or process name; they come first (see
        ``stand_ins``, which has checked them).
    """
    spec: TreeSpec | None = None
    found: dict[str, Process] = {}
    problem = None
    content = row.to_dict()
    try:
        _check_context(row)
        if registry is None:
            spec, by_reference = tree_validation.validated(content)
            found = _processes(spec, {}, row.job_name, by_reference)
        else:
            spec = parse(content)
            found = _processes(spec, registry, row.job_name)
    except ProctreeError as error:
        spec, problem = None, str(error)
    except Exception as error:  # any error of a tree becomes one failing job
        logger.exception("The process tree %r can't be read.", row.name)
        spec, problem = None, explain(error)
    return TreeRecord(
        name=row.name,
        job_name=row.job_name,
        description=row.description,
        revision=revision(content, row.default_context),
        default_context=row.default_context,
        spec=spec,
        processes=found,
        problem=problem,
        admin_url=admin_url(row),
    )


def _check_context(row: ProcessTree) -> None:
    """Refuse an invalid default context, which only SQL can write."""
    schedule = row.schedule_or_none
    if schedule is not None:
        contexts.encode(schedule.context)


def from_spec(
    spec: TreeSpec,
    registry: Mapping[str, Function],
    default_context: Mapping[str, Any],
    job_name: str | None = None,
) -> TreeRecord:
    """Return the record of a tree that exists in this process only.

    Parameters
    ----------
    spec:
        The tree.
    registry:
        Its functions, by reference, key or process name.
    default_context:
        JSON.
    job_name:
        The job of the saved tree of the same name, if there is one.
    """
    job_name = job_name or dagster_name(spec.name)
    return TreeRecord(
        name=spec.name,
        job_name=job_name,
        description=spec.description,
        revision=revision(spec.to_dict(), default_context),
        default_context=default_context,
        spec=spec,
        processes=_processes(spec, registry, job_name),
    )


def _processes(
    spec: TreeSpec,
    registry: Mapping[str, Function],
    job_name: str,
    by_reference: Mapping[str, Function] = MappingProxyType({}),
) -> dict[str, Process]:
    given = StandIns(registry, [process.name for process in spec.processes])

    def find(reference: str) -> Function:
        found = given.for_function(reference)
        if found is None:
            found = by_reference.get(reference)
        return functions.resolve(reference) if found is None else found

    def function_of(process: ProcessSpec) -> Function:
        found = given.for_process_or_function(process.name, process.func)
        return find(process.func) if found is None else found

    def makers_of(process: ProcessSpec) -> Iterator[Maker]:
        stand_in = given.for_process_or_function(process.name, process.func)
        yield _maker(process.func, stand_in, function_of(process))
        for reference in process.validation:
            yield _maker(reference, given.for_function(reference), find(reference))

    made_by: dict[str, MadeBy] = {}
    if any(process.cache_key is not None for process in spec.processes):
        for process in spec.in_order():
            before = [made_by[name] for name in process.dependencies]
            made_by[process.name] = MadeBy.of(makers_of(process), before)
    required = required_in_effect(spec)
    return {
        process.name: Process(
            spec=process,
            func=function_of(process),
            validations=tuple(find(reference) for reference in process.validation),
            outdated_check=find(process.outdated_check) if process.outdated_check else None,
            gate=process_gate.Gate(process.trigger, job_name, process.name)
            if process.trigger
            else None,
            required=process.name in required,
            cache_enabled=spec.cache_enabled,
            job_name=job_name,
            made_by=made_by.get(process.name, UNSAID),
        )
        for process in spec.processes
    }


def _maker(reference: str, stand_in: Function | None, func: Function) -> Maker:
    return Maker.of(reference, func, stand_in is not None and reference_of(stand_in) != reference)


def admin_url(row: ProcessTree) -> str | None:
    """Return the address of the tree's page in the Django admin, if the project has an admin."""
    site = project.site_url()
    if site is None or row.pk is None:
        return None
    try:
        path = reverse("admin:proctree_dagster_processtree_change", args=[row.pk])
    except NoReverseMatch:  # the project has no admin, or not for trees
        return None
    return site.rstrip("/") + path
