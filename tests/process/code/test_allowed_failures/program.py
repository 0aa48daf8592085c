"""Run a tree of processes that fail: ``program.py NAME …``."""

import json
import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "failing_settings"

import django

django.setup()

from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator
from django.core.management import call_command

from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, opening
from proctree_dagster.tree_builder import ProcessTreeInstance

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    tree = ProcessTreeInstance("failing").set_executor("multiprocess", 3)
    for name in sys.argv[1:]:
        tree.add_process(name, "failing:fail", required=False)
    job = translator().job(tree_records.from_row(tree.save()))
    with opening.open_instance(persistent=True) as instance:
        run = create.create_run(instance, job, {}, {})
        assert run.job_code_origin is not None
        pointer = run.job_code_origin.repository_origin.code_pointer
        served = ReconstructableJob(ReconstructableRepository(pointer), run.job_name)
        list(execute_run_iterator(served, run, instance))
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        print(json.dumps([ended.status.value, ended.tags]))
