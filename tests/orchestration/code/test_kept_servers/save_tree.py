import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", verbosity=0)
ProcessTreeInstance(sys.argv[1]).add_process("work", "watched:work").save()
