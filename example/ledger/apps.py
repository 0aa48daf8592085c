"""The ledger as a Django app."""

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    """Registers the app under the label `ledger`."""

    name = "example.ledger"
    default_auto_field = "django.db.models.BigAutoField"
