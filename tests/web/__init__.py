"""Tests of the gate before Dagster's UI."""
