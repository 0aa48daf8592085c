import os

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", run_syncdb=True, verbosity=0)
for name in (
    *("hangs", "forks", "kills_its_group", "exits_at_once", "kills_the_template"),
    *("closes_everything", "becomes_nobody", "counts_threads"),
):
    ProcessTreeInstance(name).add_process(name, f"leaving:{name}").save()
# Two side by side, so that they are in threads; the other tree's is in the main thread.
several = ProcessTreeInstance("several").add_process("leaves_much", "leaving:leaves_much")
several.add_process("also", "leaving:also").save()
ProcessTreeInstance("alone").add_process("leaves_much", "leaving:leaves_much").save()
