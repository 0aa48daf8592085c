"""Dagster's code location: sets Django up and hands over the live repository."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example.settings")
django.setup()

from proctree_dagster.orchestration.repository import build_repository  # noqa: E402  # after setup

process_trees = build_repository()
