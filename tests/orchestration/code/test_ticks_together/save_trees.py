"""Save a tree and a schedule for each of what a tick may find."""

from example.ledger.models import Organisation
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule

FETCH = "example.ledger.processes:fetch_journals"

for name in ("first", "second"):
    Organisation.objects.create(name=name, currency="ZAR")
for name in ("a", "b", "with_pool", "disabled", "gone", "unreadable", "rows"):
    process = {"name": "only", "func": FETCH}
    if name == "with_pool":
        process["pool"] = "p"
    tree = ProcessTree.objects.create(name=name, processes=[process])
    schedule = ProcessTreeSchedule.objects.create(
        process_tree=tree,
        interval_minutes=1440,
        timezone="UTC",
        enabled=name != "disabled",
        for_each={"model": "ledger.Organisation"} if name == "rows" else {},
    )
ProcessTree.objects.filter(name="gone").update(
    processes=[{"name": "only", "func": "not.there:at_all"}]
)
ProcessTreeSchedule.objects.filter(process_tree__name="unreadable").update(timezone="No/Where")
