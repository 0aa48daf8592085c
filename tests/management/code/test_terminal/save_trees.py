import django

django.setup()

import work
from django.core.management import call_command

from proctree_dagster.tree_builder import ProcessTreeInstance

call_command("migrate", verbosity=0)
good = ProcessTreeInstance("good")
good.create_trigger("silent", "event")
good.add_process("count", work.count)
good.add_process("long", work.long)
good.add_process("fresh", work.echo, outdated_check=work.up_to_date)
good.add_process("gated", work.echo, trigger="silent")
good.add_process("newsletter", work.fail, required=False)
good.save()
bad = ProcessTreeInstance("bad")
bad.add_process("bank", work.fail)
bad.add_process("report", work.echo, dependencies=["bank"])
bad.add_process("newsletter", work.fail, required=False)
bad.save()
