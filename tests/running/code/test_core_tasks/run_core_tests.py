"""Run Django's own tests of ``django.tasks`` with this package's backend in place of Django's.

It takes the folder of the tests, the package ``tasks`` on the path, and the file to write the
outcomes to. The names of Django's backends stand for ours before the tests are imported, so no
line of theirs is changed.
"""

import json
import sys
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import django

django.setup()

from dagster import DagsterInstance
from django import test
from django.conf import settings
from django.tasks.backends import base, dummy, immediate
from django.test.runner import DiscoverRunner

from proctree_dagster import testing
from proctree_dagster.django_tasks import DagsterBackend
from proctree_dagster.running import dagster_loading
from tests.running.delivered import run_now


class Delivers(DagsterBackend):
    """In place of the dummy: what is enqueued waits in Dagster, and is listed as it was stored."""

    def __init__(self, alias, params):
        super().__init__(alias, params)
        self.results = []

    def clear(self):
        """List nothing; what was enqueued stays."""
        self.results.clear()

    def enqueue(self, task, args, kwargs):
        """Enqueue it."""
        result = super().enqueue(task, args, kwargs)
        self.results.append(self.get_result(result.id))
        return result


class Executes(DagsterBackend):
    """In place of the immediate one: the run is executed at once, in this process."""

    def enqueue(self, task, args, kwargs):
        """Enqueue it, execute its run, and return the result as it is then."""
        result = super().enqueue(task, args, kwargs)
        with DagsterInstance.from_config(settings.PROCTREE["DAGSTER_HOME"]) as instance:
            run_now(instance, result.id)
        result.refresh()
        return result


class Stored(test.TransactionTestCase):
    """Django's cases that need no database: this backend's do."""


by_name: dict[str, Any] = {}
"""Why each test did not pass; ``None`` if it did."""


class Outcomes(unittest.TestResult):
    """Notes the outcome of each test."""

    def startTest(self, case):  # noqa: N802
        super().startTest(case)
        by_name[case.id().removeprefix("tasks.")] = None

    def stopTest(self, case):  # noqa: N802
        super().stopTest(case)
        for failed, said in (*self.failures, *self.errors, *self.skipped):
            if getattr(failed, "test_case", failed) is case:  # a subtest has its test case
                by_name[case.id().removeprefix("tasks.")] = said


def cases_of(found):
    """Yield each test of a suite."""
    for each in found:
        yield from cases_of(each) if isinstance(each, unittest.TestSuite) else [each]


for where, name, ours in (
    (dummy, "DummyBackend", Delivers),
    (immediate, "ImmediateBackend", Executes),
    (base, "BaseTaskBackend", DagsterBackend),  # those of a project are derived from it
    (test, "SimpleTestCase", Stored),
):
    mock.patch.object(where, name, ours).start()
names = sorted(f"tasks.{each.stem}" for each in Path(sys.argv[1]).glob("test_*.py"))
suite = unittest.defaultTestLoader.loadTestsFromNames(names)
for case in cases_of(suite):
    # Some have none. With this, no permissions are made again after each test, either.
    type(case).available_apps = settings.INSTALLED_APPS

assert dagster_loading.wait(60)
runner = DiscoverRunner(verbosity=0, interactive=False)
runner.setup_test_environment()
databases = runner.setup_databases()
with testing.real_dagster():
    suite.run(Outcomes())
runner.teardown_databases(databases)
Path(sys.argv[2]).write_text(json.dumps(by_name))
