"""The example's demo user: who may see and do everything in the example's admin."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection

from example import settings as examples_own

NAME = PASSWORD = "demo"  # everybody may know it: see make_demo_user()


def make_demo_user() -> str:
    """Make the user if there is none, and return a line that says how to log in.

    Its password is known to everybody. So it is made in the example's own database only, and only
    while ``DEBUG`` is on, which Django serves to this machine alone unless hosts are named.
    """
    if not settings.DEBUG or not _is_examples_database():
        return "No demo user: DEBUG is off, or the database is not the example's."
    users = get_user_model()._default_manager
    user = users.filter(username=NAME).first()
    if user is None:
        user = users.create_superuser(NAME, password=PASSWORD)
    if not user.check_password(PASSWORD):
        return f"The admin's user is {NAME!r}, with the password that you gave it."
    return f"The admin's user is {NAME!r}, its password {PASSWORD!r}."


def _is_examples_database() -> bool:
    own = examples_own.DATABASES["default"]
    found = connection.settings_dict
    return all(found[key] == own[key] for key in ("ENGINE", "NAME"))
