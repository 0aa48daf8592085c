import os

import django
from dagster import (
    AssetSelection,
    Definitions,
    RunRequest,
    asset,
    define_asset_job,
    in_process_executor,
    sensor,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example.settings")
django.setup()

from example.ledger.models import Organisation
from proctree_dagster.orchestration.repository import build_repository


@asset
def organisations():
    return sorted(each.name for each in Organisation.objects.all())


refresh = define_asset_job("refresh", AssetSelection.all())


@sensor(job=refresh, minimum_interval_seconds=30)
def look():
    return RunRequest(run_key="once")


process_trees = build_repository(
    extra=Definitions(
        assets=[organisations], jobs=[refresh], sensors=[look], executor=in_process_executor
    )
)
