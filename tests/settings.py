"""The example's settings, for tests: nothing that a test does reaches the example's own files."""

from example.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.app"]  # noqa: F405
PROCTREE = {"DAGSTER_HOME": None}
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    for alias in ("default", "north")
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
