"""Run a tree of an installed app's function: ``python -c … SITE MARKER``."""

import os
import sys

site, marker = sys.argv[1:]
sys.path.insert(0, site)
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
from django.conf import settings

settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "bank"]
django.setup()

from django.core.management import call_command

from proctree_dagster.models import ProcessTree
from proctree_dagster.testing import run_tree

call_command("migrate", verbosity=0)
process = {"name": "p", "func": "bank.processes:async_task"}
ProcessTree.objects.create(name="t", processes=[process])
results = run_tree("t", {"func": "subprocess.getoutput", "args": [f"touch {marker}"]})
print(results["success"], results["errors"]["t"])
