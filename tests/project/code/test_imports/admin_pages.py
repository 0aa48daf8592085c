"""Opens every page of the admin, fires a trigger, and prints the modules of Dagster it has then."""

import os
import sys

import django


def main() -> None:
    """Do so."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from proctree_dagster.running import dagster_loading
    from tests.admin.routes import make_rows, routes

    dagster_loading.begin = lambda: None  # the thread that imports it
    setup_test_environment()
    for alias in ("default", "north"):
        call_command("migrate", database=alias, verbosity=0)
    rows, client = make_rows(), Client()
    client.force_login(User.objects.create_superuser("superuser"))
    for route in routes():
        for send in (client.get, client.post):
            assert send(rows.address(route), {"action": "fire"}).status_code < 500, route
    chosen = {"action": "fire", "_selected_action": [rows.key("trigger")]}
    assert client.post("/admin/proctree_dagster/trigger/", chosen).status_code == 302
    print([name for name in sys.modules if name.split(".")[0].startswith("dagster")])


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    main()
