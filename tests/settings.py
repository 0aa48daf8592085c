"""The example's settings, for tests: nothing that a test does reaches the example's own files."""

from example.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.app"]  # noqa: F405
PROCTREE = {}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
