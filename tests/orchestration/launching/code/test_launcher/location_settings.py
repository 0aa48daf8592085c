import json
import os

from tests.settings import *  # noqa: F403

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{os.environ['TEST_FOLDER']}/db.sqlite3",
    }
}
if "TEST_DATABASE" in os.environ:
    DATABASES["default"] = json.loads(os.environ["TEST_DATABASE"])
