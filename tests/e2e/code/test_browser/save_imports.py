from django.utils import timezone
from e2e_app import processes

from proctree_dagster.models import ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance

for name in ("import_by_command", "import_by_schedule"):
    tree = ProcessTreeInstance(name)
    tree.add_process("fetch", func=processes.fetch)
    tree.add_process("convert", func=processes.convert, dependencies=["fetch"])
    tree.add_process("publish", func=processes.publish, dependencies=["convert"])
    tree.save()
    tree.create_command()
tree.register_schedule(interval_minutes=1440, context={"name": "import_by_schedule"})
ProcessTreeSchedule.objects.filter(process_tree__name=tree.name).update(next_run=timezone.now())
