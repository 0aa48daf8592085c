import os

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", run_syncdb=True, verbosity=0)
tree = ProcessTreeInstance("observed").add_process("works", "observed:works")
tree.add_process("fails", "observed:fails", dependencies=["works"]).save()
