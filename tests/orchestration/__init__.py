"""Tests of what imports Dagster."""
