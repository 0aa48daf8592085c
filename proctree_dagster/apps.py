"""The Django app."""

from django.apps import AppConfig
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
        from .services import system_checks, webserver  # noqa: F401
        from .support import isolation

        isolation.remember_databases()
        webserver.connect_receivers()
