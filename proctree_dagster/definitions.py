"""Dagster's code location of a project that has none of its own: sets Django up, loads the trees.

``manage.py proctree dev`` names it to Dagster. Where Dagster is started by hand, the environment
variable ``DJANGO_SETTINGS_MODULE`` names the project's settings, and its folder is imported from.
"""

import django

django.setup()

from .orchestration.repository import build_repository  # noqa: E402  # after setup

process_trees = build_repository()
