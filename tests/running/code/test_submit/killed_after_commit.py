"""Submit a tree in a transaction, and be killed as soon as that has committed; or deliver.

The argument is what to do. It prints the id of the run, or of the runs that Dagster then has.
"""

import os
import signal
import sys

import django

django.setup()

from dagster import DagsterInstance
from django.core.management import call_command
from django.db import transaction

from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

if sys.argv[1] == "submit":
    call_command("migrate", verbosity=0)
    ProcessTreeInstance("books").add_process("only", func=processes.one).save()
    with transaction.atomic():
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        print(ProcessTreeManager.submit_tree("books").run_id, flush=True)
    raise AssertionError("it was to be killed")
check_and_run_scheduled_tasks()
check_and_run_scheduled_tasks()
with DagsterInstance.get() as instance:
    print("\n".join(run.run_id for run in instance.get_runs()))
