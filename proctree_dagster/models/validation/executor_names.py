"""The table of executors that settings and rows may name, with their dotted paths.

It imports no executor, as Django's checks and validators use it and Dagster takes a second to
import. ``orchestration.executors`` imports the one that was chosen.
"""

import importlib.util
from collections.abc import Collection
from typing import NamedTuple

from ... import conf, functions


class Known(NamedTuple):
    """An executor that has a name."""

    path: str
    """Dotted path of its ``ExecutorDefinition``."""

    package: str
    """What to install for it."""

    several_machines: bool = True
    """Whether it may run processes on other machines than the run's own."""

    launcher: str = ""
    """The run launcher that it needs; blank: it works with any."""


EXECUTORS = {
    "threads": Known(
        "proctree_dagster.orchestration.execution.threads_executor.threads_executor",
        "proctree-dagster",
        several_machines=False,
    ),
    "in_process": Known("dagster.in_process_executor", "dagster", several_machines=False),
    "multiprocess": Known("dagster.multiprocess_executor", "dagster", several_machines=False),
    "celery": Known("dagster_celery.celery_executor", "'proctree-dagster[celery]'"),
    "celery_docker": Known("dagster_celery_docker.celery_docker_executor", "dagster-celery-docker"),
    "celery_k8s": Known(
        "dagster_celery_k8s.celery_k8s_job_executor",
        "dagster-celery-k8s",
        launcher="dagster_celery_k8s.CeleryK8sRunLauncher",
    ),
    "dask": Known("dagster_dask.dask_executor", "dagster-dask"),
    "docker": Known("dagster_docker.docker_executor", "dagster-docker"),
    "ecs": Known(
        "dagster_aws.ecs.ecs_executor", "dagster-aws", launcher="dagster_aws.ecs.EcsRunLauncher"
    ),
    "k8s_job": Known(
        "dagster_k8s.k8s_job_executor", "dagster-k8s", launcher="dagster_k8s.K8sRunLauncher"
    ),
}
"""Executors by the names that ``PROCTREE["EXECUTOR"]`` and trees give them."""

_BY_PATH = {
    **{known.path: known for known in EXECUTORS.values()},
    # The path in settings from before 0.2 (see ``support.moved``).
    "proctree_dagster.orchestration.threads.threads_executor": EXECUTORS["threads"],
}


def path_of(name: str) -> str:
    """Return the dotted path of an executor, which is given by its name or by that path."""
    return EXECUTORS[name].path if name in EXECUTORS else name


def runs_side_by_side(name: str) -> bool:
    """Return whether an executor of the table may run several processes of a tree at once."""
    known = EXECUTORS.get(name) or _BY_PATH.get(name)
    return known is not None and known != EXECUTORS["in_process"]


def runs_on_several_machines(name: str) -> bool:
    """Return whether an executor of the table may run processes on several machines.

    A dotted path that is not in the table is not imported, so nothing is known of it.
    """
    known = EXECUTORS.get(name) or _BY_PATH.get(name)
    return known is not None and known.several_machines


def launcher_of(name: str, module: str = "") -> str:
    """Return the run launcher that an executor needs; blank if it works with any.

    Parameters
    ----------
    name:
        A name of the table or a dotted path.
    module:
        The module of the function that creates the executor, if it was imported: an executor that
        a project has ``configured`` needs the launcher of the original.
    """
    known = EXECUTORS.get(name) or _BY_PATH.get(name)
    if known is not None:
        return known.launcher
    package = module.split(".")[0]
    return next(
        (each.launcher for each in EXECUTORS.values() if each.path.split(".")[0] == package), ""
    )


def problem_of_launcher(executor: str, needed: str, classes: Collection[str]) -> str | None:
    """Return why an executor can't work with the instance's run launcher, or ``None``.

    Parameters
    ----------
    executor:
        The executor's name.
    needed:
        What ``launcher_of`` returns for it.
    classes:
        Names of the launcher's class and of its base classes, without their modules.
    """
    if not needed or needed.rpartition(".")[2] in classes:
        return None
    return f"The executor {executor!r} works with {needed} only, and the run launcher is another"


REMEDY_OF_LAUNCHER = "Name that launcher in dagster.yaml, or take another executor."


def comes_from_package_for_several_machines(module: str) -> bool:
    """Return whether a module is part of a package whose executors run on several machines."""
    package = module.split(".")[0]
    return any(
        known.several_machines and known.path.split(".")[0] == package
        for known in EXECUTORS.values()
    )


def problem_of_name(name: str) -> str | None:
    """Return why there is no such executor, as far as can be known without importing it.

    Parameters
    ----------
    name:
        A name of the table or a dotted path.
    """
    known = EXECUTORS.get(name) or _BY_PATH.get(name)
    if known is not None:
        if _is_there(known.path.split(".")[0]):
            return None
        return f"the executor {name!r} is not installed: pip install {known.package}"
    module = name.rpartition(".")[0]
    if not module:
        return (
            f"the executor {name!r} is unknown: choose one of {', '.join(EXECUTORS)}, or give the "
            "dotted path of an ExecutorDefinition"
        )
    if _is_there(module):
        return None
    return (
        f"the executor {name!r} can't be found: there is no module {module!r}; is its package "
        "installed?"
    )


def problem_of_row(name: str) -> str | None:
    """Return why a tree can't have the executor that its row names, or return ``None``.

    A row may name an executor of the table. A dotted path must be that of the setting, or lie
    under the prefixes of ``PROCTREE["FUNCTION_MODULES"]``; no other code is imported.

    Parameters
    ----------
    name:
        The executor in the row; blank for the deployment's executor.
    """
    module = name.rpartition(".")[0]
    if not name or name == conf.current().EXECUTOR:
        return None  # a problem of the setting is not the tree's
    if module and not functions.is_allowed(module):
        return (
            f"the executor {name!r} is not allowed: its module {module!r} is under none of the "
            f"allowed prefixes ({', '.join(functions.allowed_modules()) or 'there are none'}); set "
            f"{functions.to_allow(module)}, or choose one of {', '.join(EXECUTORS)}"
        )
    return problem_of_name(name)


def _is_there(module: str) -> bool:
    """Return whether a module can be found; only the packages that it is in are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or the name is invalid
        return False
