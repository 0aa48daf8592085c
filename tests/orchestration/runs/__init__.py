"""Tests of runs: creating, finding, following and settling them."""
