"""Run functions of ``forking`` as one tree: ``python -c … FOLDER NAME …``."""

import os
import sys

folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = f"{folder}/db.sqlite3"
settings.DATABASES["default"]["OPTIONS"] = {"timeout": 30}
settings.PROCTREE = {"DAGSTER_HOME": folder, "FUNCTION_MODULES": ["forking"]}
django.setup()

import forking
from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager

call_command("migrate", run_syncdb=True, verbosity=0)
names.sort()
tree = ProcessTreeInstance("tree")
for name in names:
    tree.add_process(name, getattr(forking, name), timeout=60 if name == "in_time" else None)
tree.add_process("last", forking.last, names).save()
answer = ProcessTreeManager.execute_tree("tree")
print(answer["success"], answer["errors"], [answer["results"][name] for name in names])
