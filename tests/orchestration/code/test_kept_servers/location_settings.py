import os
from pathlib import Path

from tests.settings import *  # noqa: F403

FOLDER = Path(os.environ["TEST_FOLDER"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{FOLDER}/db.sqlite3",
        "OPTIONS": {"timeout": 30},
    }
}
PROCTREE = {"FUNCTION_MODULES": ["watched"], "DAGSTER_HOME": f"{FOLDER}/home"}
SECRET = (FOLDER / "secret.txt").read_text()  # as projects read what is not in their repository
