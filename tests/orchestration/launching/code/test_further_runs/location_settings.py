import json
import os

from tests.settings import *  # noqa: F403

FOLDER = os.environ["TEST_FOLDER"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{FOLDER}/db.sqlite3",
        "OPTIONS": {"timeout": 30},
    }
}
if "TEST_DATABASE" in os.environ:
    DATABASES["default"] = json.loads(os.environ["TEST_DATABASE"])
PROCTREE = {
    "FUNCTION_MODULES": ["shared"],
    "DAGSTER_HOME": f"{FOLDER}/home",
    **json.loads(os.environ.get("TEST_LIMITS", "{}")),
}
LOGGING = {}
