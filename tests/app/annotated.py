"""Functions whose annotations name models."""

from tests.app.models import Organisation


def name_of(organisation: Organisation) -> str:
    """Take a row, as its annotation says."""
    return str(organisation.name)
