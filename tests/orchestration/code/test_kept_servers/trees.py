import os
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from proctree_dagster.orchestration import kept_servers
from proctree_dagster.orchestration.repository import build_repository


def note():
    with (FOLDER / "each_minute").open("a") as file:
        file.write(".")


kept_servers.repeat(note)
if (FOLDER / "broken").exists():
    raise RuntimeError("broken on purpose")
process_trees = build_repository()
