"""Save a tree and run it by a command: ``python -c … CONTEXT``."""

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "interrupted_settings"

import django

django.setup()

import interrupted
from django.core.management import call_command

from proctree_dagster.management.base import TreeCommand
from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", run_syncdb=True, verbosity=0)
tree = ProcessTreeInstance("fan").add_process("first", interrupted.first)
for name in ("plain", "timed", "coroutine"):
    tree.add_process(
        name, getattr(interrupted, name), ["first"], timeout=60 if name == "timed" else None
    )
tree.add_process("last", interrupted.last, ["plain", "timed", "coroutine"]).save()


class Command(TreeCommand):
    tree_name = "fan"


Command().run_from_argv(["manage.py", "fan", "--context", sys.argv[1]])
interrupted.say("closed", [each.connection is None for each in interrupted.opened])
