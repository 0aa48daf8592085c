"""Opens pages before Dagster is imported, and prints which say so and which threads import it."""

import json
import os
import sys
import threading
from typing import Any

import django

answered = threading.Event()
"""Set once all pages have been opened: Dagster is imported then."""

importers: set[str] = set()


class Watch:
    """Notes the threads that import Dagster."""

    def find_spec(self, name: str, *args: Any) -> None:
        """Note the current one."""
        if name == "dagster":
            importers.add(threading.current_thread().name)


def main() -> None:
    """Do so."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from proctree_dagster.running import dagster_loading

    load = dagster_loading._load
    dagster_loading._load = lambda: load() if answered.wait() else None
    setup_test_environment()
    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(User.objects.create_superuser("superuser"))
    loading = [
        page
        for page in sys.argv[1:]
        if "Dagster is being loaded" in client.get(page).content.decode()
    ]
    answered.set()
    assert dagster_loading.wait(120)
    print(json.dumps({"loading": loading, "importers": sorted(importers)}))


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    sys.meta_path.insert(0, Watch())
    django.setup()
    main()
