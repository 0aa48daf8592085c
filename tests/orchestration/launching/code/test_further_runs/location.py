import os
from pathlib import Path

FOLDER = Path(os.environ["TEST_FOLDER"])
os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.template import further_runs

further_runs.WAIT_SECONDS = 15.0  # a machine that is busy with other tests launches late

process_trees = build_repository()
