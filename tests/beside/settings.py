"""Settings of somebody's project, as they are where its tests are run: with the real Dagster."""

import os

from tests.settings import *  # noqa: F403

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["BESIDE_DATABASE"],
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;",
        },
    }
}
DATABASE_ROUTERS: list[str] = []
PROCTREE = {
    "DAGSTER_HOME": os.environ["BESIDE_HOME"],
    "DAGSTER_URL": os.environ.get("BESIDE_URL"),
    "FUNCTION_MODULES": ["tests"],
    "MAX_CONCURRENT": int(os.environ.get("BESIDE_CONCURRENT", "4")),
}
ROOT_URLCONF = "tests.beside.urls"
