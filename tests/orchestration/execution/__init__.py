"""Tests of executing a run's steps."""
