"""The example's settings, with one more app."""

from example.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "closing"]  # noqa: F405
