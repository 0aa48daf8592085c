import os

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", verbosity=0)
call_command("migrate", run_syncdb=True, verbosity=0)  # of apps without migrations
for name in ("works", "waits", "fails", "leaves_a_thread", "leaves_a_program", "needs_memory"):
    tree = ProcessTreeInstance(name, reuse_worker=True)
    tree.add_process(name, f"shared:{name}").save()
# Two side by side, so that they are in threads; those of the others are in the main thread.
several = ProcessTreeInstance("several", reuse_worker=True).add_process("works", "shared:works")
several.add_process("also", "shared:also").save()
ProcessTreeInstance("alone").add_process("works", "shared:works").save()
