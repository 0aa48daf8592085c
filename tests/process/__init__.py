"""Tests of running one process: its arguments, options, cache and outcome."""
