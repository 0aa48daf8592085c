import os

import django
from dagster import AssetSelection, Definitions, asset, define_asset_job

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django.setup()

from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration.repository import build_repository


@asset
def trees():
    return sorted(each.name for each in ProcessTree.objects.all())


process_trees = build_repository(
    extra=Definitions(assets=[trees], jobs=[define_asset_job("refresh", AssetSelection.all())])
)
