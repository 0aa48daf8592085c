import os

os.environ["DJANGO_SETTINGS_MODULE"] = "location_settings"

import django

django.setup()

import dagster as dg

from proctree_dagster.orchestration.repository import build_repository


@dg.job
def own():
    pass


process_trees = build_repository(dg.Definitions(jobs=[own]))
