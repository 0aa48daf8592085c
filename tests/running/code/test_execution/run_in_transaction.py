"""Run a tree inside a transaction: ``python -c … DATABASE HOME``."""

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = sys.argv[1]
settings.PROCTREE = {"DAGSTER_HOME": sys.argv[2]}
django.setup()

from django.core.management import call_command
from django.db import transaction

from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.app.models import Organisation

call_command("migrate", run_syncdb=True, verbosity=0)
tree = ProcessTreeInstance("tree").add_process("count", processes.count_organisations)
tree.save()
with transaction.atomic():
    Organisation.objects.create(name="not committed yet")
    results = tree.execute()
    Organisation.objects.create(name="afterwards")
print(results["results"], Organisation.objects.count())
