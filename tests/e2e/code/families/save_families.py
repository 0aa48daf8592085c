"""Save as many families of five trees as the environment says, none of which is due for hours."""

import datetime as dt
import os

from django.utils import timezone

from proctree_dagster.tree_builder import ProcessTreeInstance

begins = (timezone.localtime() + dt.timedelta(hours=12)).time()


def save(name, then=(), beside=()):
    tree = ProcessTreeInstance(name)
    tree.add_process("note", func="e2e_functions:note")
    for each in then:
        tree.add_dependent_tree(each)
    for each in beside:
        tree.add_sibling_tree(each)
    tree.save()
    return tree


for number in range(int(os.environ["FAMILIES"])):
    a, b, c, d, s = (f"{letter}_{number}" for letter in "abcds")
    save(d)
    save(s)
    save(b, then=[d])
    save(c, then=[d])
    tree = save(a, then=[b, c], beside=[s])
    tree.register_schedule(interval_minutes=1440, start_time=begins)
