"""Set Django up as a server, or a command of manage.py, does; print whether Dagster is imported."""

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from unittest import mock

from django.conf import settings

how, arguments = sys.argv[1], sys.argv[2:]
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
folder = Path(tempfile.mkdtemp())
settings.PROCTREE = {"PRELOAD": how != "off", "DAGSTER_HOME": str(folder)}


def modules() -> set[str]:
    """Return what is imported of what imports Dagster."""
    return {name for name in sys.modules if name.startswith("proctree_dagster.orchestration")}


def execute_a_tree() -> None:
    """Execute one in Dagster's home."""
    from django.core.management import call_command

    from proctree_dagster import testing
    from proctree_dagster.tree_builder import ProcessTreeInstance
    from tests.app import processes

    call_command("migrate", verbosity=0)
    tree = ProcessTreeInstance("tree").add_process("one", func=processes.one)
    tree.save()
    with testing.real_dagster():
        assert tree.execute()["success"]


if how == "command":
    management = import_module("django.core.management")
    sys.argv = ["manage.py", *arguments]
    with mock.patch.object(management.ManagementUtility, "fetch_command"):  # only what is before
        management.execute_from_command_line(sys.argv)
else:
    kind = "asgi" if how == "asgi" else "wsgi"
    getattr(import_module(f"django.core.{kind}"), f"get_{kind}_application")()
print("loaded:", "dagster" in sys.modules)
if how == "run":
    before = modules()
    execute_a_tree()
    print("gRPC:", "grpc" in sys.modules)
    print("more:", sorted(modules() - before))
