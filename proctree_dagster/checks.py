"""System checks: what can be known to be wrong before anything runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError

from . import caching, conf
from .models import ProcessTree


@register("proctree_dagster")
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check ``settings.PROCTREE`` and the settings that schedules depend on."""
    found: list[CheckMessage] = [
        Error(problem, id="proctree_dagster.E001")
        for problem in conf.problems(getattr(settings, "PROCTREE", {}))
    ]
    if not settings.USE_TZ:
        found.append(
            Error(
                "Schedules need time zones, and USE_TZ is False.",
                hint="Set USE_TZ = True.",
                id="proctree_dagster.E002",
            )
        )
    if any(problem.id == "proctree_dagster.E001" for problem in found):
        return found  # nothing more can be read
    return found + _home_problems(conf.current())


@register(Tags.database)
def check_cache(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn when results are cached where no other process finds them.

    It reads the trees, so it is a database check: ``migrate`` runs it, and ``check --database``.
    """
    if not databases or conf.problems(getattr(settings, "PROCTREE", {})):
        return []
    alias = conf.current().CACHE
    backend = settings.CACHES.get(alias, {}).get("BACKEND")
    if backend is None:
        return [
            Error(
                f'PROCTREE["CACHE"] is {alias!r}, and CACHES has no such alias.',
                id="proctree_dagster.E004",
            )
        ]
    if backend not in caching.FLEETING:
        return []
    try:
        names = [
            tree.name
            for tree in ProcessTree.objects.filter(cache_enabled=True)
            if any("cache_key" in process for process in tree.processes)
        ]
    except (DatabaseError, TypeError):  # not migrated yet, or a row that says anything: not ours
        return []
    if not names:
        return []
    return [
        Warning(
            f"Process trees cache results ({', '.join(map(repr, names))}), and the cache "
            f"{alias!r} ({backend}) dies with each process: no run finds what another cached.",
            hint='Name a shared cache in PROCTREE["CACHE"], such as Redis or the database.',
            id="proctree_dagster.W002",
        )
    ]


def _home_problems(current: conf.Settings) -> list[CheckMessage]:
    home, environment = current.DAGSTER_HOME, os.environ.get("DAGSTER_HOME")
    found: list[CheckMessage] = []
    if home and environment and Path(home).resolve() != Path(environment).resolve():
        found.append(
            Error(
                f'PROCTREE["DAGSTER_HOME"] is {home!r}, and the environment says '
                f"{environment!r}: Django and Dagster would keep two histories.",
                hint="Make them the same, or leave one of them out.",
                id="proctree_dagster.E003",
            )
        )
    elif home and not Path(home).is_dir():
        found.append(
            Warning(
                f'PROCTREE["DAGSTER_HOME"] is {home!r}, which is not a folder.',
                hint="Create it, with a dagster.yaml.",
                id="proctree_dagster.W001",
            )
        )
    return found
