"""Settings of Django's own tests of ``django.tasks``."""

import os

from tests.settings import *  # noqa: F403

DATABASES = {"default": DATABASES["default"]}  # noqa: F405
PROCTREE = {"DAGSTER_HOME": os.environ["DAGSTER_HOME"], "FUNCTION_MODULES": ["tasks"]}
