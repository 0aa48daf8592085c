"""A tree of a process in a folder that the environment names, and what executes it."""

import os
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
DATABASE = FOLDER / "db.sqlite3"
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = str(DATABASE)
settings.DATABASES["default"]["OPTIONS"] = {"timeout": 30}
settings.PROCTREE = {"DAGSTER_HOME": str(FOLDER / "home")}
django.setup()

from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

if not DATABASE.exists():
    call_command("migrate", run_syncdb=True, verbosity=0)
    ProcessTreeInstance("tree").add_process("one", processes.one).save()


def execute():
    return ProcessTreeManager.execute_tree("tree")["success"]
