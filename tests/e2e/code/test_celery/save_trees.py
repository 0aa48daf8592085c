from example.ledger.models import Organisation
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger

north = Organisation.objects.create(name="North", currency="ZAR")


def tree(name):
    return ProcessTreeInstance(name)


diamond = tree("diamond").add_process("first", "far_functions:first")
diamond.add_process("left", "far_functions:left", ["first"])
diamond.add_process("right", "far_functions:right", ["first"])
diamond.add_process("last", "far_functions:last", ["left", "right"]).save()
diamond.register_schedule(context={"organisation": north}, enabled=False)

failing = tree("failing").add_process("whole", "far_functions:after")
failing.add_process("fails", "far_functions:fails_until_mended", ["whole"])
failing.add_process("after", "far_functions:after", ["fails"]).save()

create_trigger("silent", "condition", {"field": "counts.count", "operator": "eq", "value": 8})
mixed = tree("mixed").add_process(
    "counts",
    "far_functions:counts",
    response_vars={"count": {"type": "int"}, "total": {"type": "decimal"}},
)
for name in ("lost", "odd", "gone"):
    mixed.add_process(name, "far_functions:fails", required=False)
mixed.add_process("slow", "far_functions:slow", timeout=1, required=False)
mixed.add_process("again", "far_functions:fails_twice", retries=2)
mixed.add_process("gated", "far_functions:after", ["counts"], trigger="silent")
mixed.add_process(
    "after",
    "far_functions:after",
    ["lost", "odd", "gone", "slow", "gated", "again"],
    required=False,
)
mixed.save()

tree("cached").add_process("cached", "far_functions:cached", cache_key="far").save()
for name in ("endless", "stubborn", "once"):
    tree(name).add_process(name, f"far_functions:{name}").save()
due = tree("due").add_process("scheduled", "far_functions:scheduled")
due.save()
due.register_schedule(interval_minutes=1440)
