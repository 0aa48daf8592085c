"""Tests of the launcher and of the processes that it starts."""
