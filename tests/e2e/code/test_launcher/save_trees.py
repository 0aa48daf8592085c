import datetime as dt

from django.utils import timezone

from proctree_dagster.models import ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance

for name, pool in (("speak", None), ("pooled", "a_pool"), ("due", None), ("alone", None)):
    ProcessTreeInstance(name).add_process("speak", func="spoken:speak", pool=pool).save()
fan = ProcessTreeInstance("fan").add_process("first", func="spoken:speak")
fan.add_process("left", "spoken:left", ["first"]).add_process("right", "spoken:right", ["first"])
fan.add_process("last", "spoken:speak", ["left", "right"]).save()
ProcessTreeInstance("forked").set_executor("multiprocess").add_process("a", "spoken:speak").save()
ProcessTreeInstance("shared", reuse_worker=True).add_process("speak", "spoken:speak").save()
ProcessTreeInstance.load("due").register_schedule(interval_minutes=60)
ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=1))
