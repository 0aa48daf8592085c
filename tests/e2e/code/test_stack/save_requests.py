"""Trees of which several runs are asked for at once, one that is given a secret, a broken one."""

from django.utils import timezone

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance

YEARLY = "0 0 1 1 *"


def saved(name: str, process: str) -> ProcessTreeInstance:
    """Save a tree with one process."""
    tree = ProcessTreeInstance(name).add_process(process, func=f"e2e_functions:{process}")
    tree.save()
    return tree


saved("for_each_one", "quick").register_schedule(cron=YEARLY, for_each="ledger.Organisation")
both = saved("both_due", "quick")
both.register_schedule(cron=YEARLY, context={"of": "the default one", "kept": 1})
both.register_schedule(name="second", cron=YEARLY, context={"of": "the second one"})
due = ProcessTreeSchedule.objects.filter(process_tree__name__in=["for_each_one", "both_due"])
due.update(next_run=timezone.now())

saved("in_line", "naps")
told = ProcessTreeInstance("has_a_secret")
told.add_process("says", func="e2e_functions:says_its_secret")
told.add_process("fails", func="e2e_functions:fails_with_its_secret", dependencies=["says"])
told.save()
limited = ProcessTreeInstance("limited", one_at_a_time_per="{customer}", limit_per_key=2)
limited.add_process("naps", func="e2e_functions:naps").save()

shrinks = ProcessTreeInstance("shrunk").add_process("first", func="e2e_functions:quick")
shrinks.add_process("bad", func="e2e_functions:fails", dependencies=["first"]).save()
ProcessTree.objects.create(
    name="broken",
    processes=[
        {"name": "a", "func": "e2e_functions:quick", "dependencies": ["b"]},
        {"name": "b", "func": "os:system", "dependencies": ["a"]},
    ],
)
