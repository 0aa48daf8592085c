from django.contrib.auth.models import User

from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger

User.objects.create(username="new")
create_trigger(
    "condition",
    "condition",
    {
        "model": "ledger.Organisation",
        "filter": {"name__startswith": "New"},
        "operator": "gte",
        "value": 2,
        "poll_seconds": 1,
    },
)
create_trigger("schedule", "schedule", {"interval_minutes": 525600, "poll_seconds": 1})
create_trigger("custom", "custom", {"function": "e2e_functions:is_wanted", "poll_seconds": 1})
create_trigger(
    "outdated_check",
    "outdated_check",
    {"model": "auth.User", "date_field": "date_joined", "max_age_minutes": 60, "poll_seconds": 1},
)
create_trigger("event", "event")
for name in ("condition", "schedule", "custom", "outdated_check", "event"):
    tree = ProcessTreeInstance(f"of_{name}").add_process("shown", "e2e_functions:shown")
    tree.subscribe_to_trigger(name, {"by": name}).save()
