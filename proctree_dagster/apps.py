"""The Django app."""

import inspect
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.db.models.signals import post_migrate
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django.utils.translation import gettext_lazy as _


class ProctreeDagsterConfig(AppConfig):
    """Connects what happens in Django to Dagster; writes nothing and starts nothing."""

    name = "proctree_dagster"
    verbose_name = _("Process trees")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks and the signal receivers; remember the databases' names."""
        # Importing two of them registers the checks.
        from .orchestration.inspection import missing_names  # noqa: F401
        from .services import revisions, sentry_crons, system_checks, webserver  # noqa: F401
        from .support import isolation

        if _executes_tasks():
            from . import django_tasks  # noqa: F401  # registers the function that executes them
        isolation.remember_databases()
        webserver.connect_receivers()
        revisions.connect_receivers()
        sentry_crons.connect()
        post_migrate.connect(_migrated, dispatch_uid="proctree_dagster.sync")
        if _preloads() and _serves_pages():
            from .running import dagster_loading

            dagster_loading.preload()


def _executes_tasks() -> bool:
    """Return whether ``TASKS`` names our backend of ``django.tasks``, or may name one of its kind.

    Any but Django's own may be derived from it; it is not imported to find out.
    """
    backends = getattr(settings, "TASKS", {}).values()
    named = [str(each.get("BACKEND", "")) for each in backends if isinstance(each, Mapping)]
    if any(each.startswith(f"{__package__}.") for each in named):
        return True
    others = [each for each in named if each and not each.startswith(("django.", "django_tasks."))]
    return bool(others) and any(map(find_spec, ("django.tasks", "django_tasks")))


def _preloads() -> bool:
    """Return whether ``PROCTREE["PRELOAD"]`` is set; the system checks report wrong settings."""
    given = getattr(settings, "PROCTREE", {})
    return isinstance(given, Mapping) and given.get("PRELOAD") is True


def _serves_pages() -> bool:
    """Return whether this process may serve pages: no command sets Django up, or ``runserver``.

    Its parent, which starts it again when code changes, serves none.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "execute" and frame.f_globals.get("__name__") == MANAGEMENT:
            is_child = os.environ.get(DJANGO_AUTORELOAD_ENV) == "true" or "--noreload" in sys.argv
            return "runserver" in sys.argv[1:2] and is_child
        frame = frame.f_back
    return True


MANAGEMENT = "django.core.management"
"""The module whose ``ManagementUtility.execute`` runs a command."""


def _migrated(sender: AppConfig, using: str, plan: Any = None, **kwargs: Any) -> None:
    """Sync declared trees after a ``migrate``, once: when its last app sends the signal.

    A ``flush`` sends it, too, without a plan: what was emptied stays so.
    """
    from . import conf

    last = [each for each in apps.get_app_configs() if each.models_module is not None][-1]
    if sender is not last or plan is None or not conf.current().SYNC_ON_MIGRATE:
        return
    from .tree_builder import sync_on_migrate

    sync_on_migrate.after_migrate(using, kwargs.get("verbosity", 1), kwargs.get("stdout"))
