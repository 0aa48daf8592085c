import os

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from proctree_dagster.tree_builder import ProcessTreeInstance

tree = ProcessTreeInstance("works", overwrite=True, reuse_worker=True)
tree.add_process("works", "shared:works").add_process("also", "shared:also").save()
