"""The tests' app, under the label ``app``."""

from django.apps import AppConfig


class TestsAppConfig(AppConfig):
    """Registers the app."""

    name = "tests.app"
    default_auto_field = "django.db.models.BigAutoField"
