import os
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from proctree_dagster.orchestration.repository import build_repository

process_trees = build_repository()
