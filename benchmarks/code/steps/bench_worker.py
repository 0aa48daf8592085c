import sys

import django

django.setup()

from dagster import DagsterInstance
from dagster._cli.api import _execute_run_command_body
from dagster._core.definitions.reconstruct import ReconstructableRepository

from proctree_dagster.orchestration.runs import create

module, name = sys.argv[1:]
code = ReconstructableRepository.for_module(module, "process_trees")
job = code.get_definition().get_job(name)
with DagsterInstance.get() as instance:
    if module == "by_hand":
        origin = code.get_reconstructable_job(name).get_python_origin()
        run = instance.create_run_for_job(job, job_code_origin=origin)
    else:
        run = create.create_run(instance, job, {}, {})
    _execute_run_command_body(run.run_id, instance, lambda event: None, False)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.is_success
