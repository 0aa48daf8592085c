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
PROCTREE = {
    "FUNCTION_MODULES": ["leaving"],
    "DAGSTER_HOME": f"{FOLDER}/home",
    "EXIT_GRACE": float(os.environ.get("TEST_GRACE", "60")),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": True,
    "root": {"handlers": ["null"]},
    "handlers": {"null": {"class": "logging.NullHandler"}},
}
