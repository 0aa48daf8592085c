"""Tests of Django's admin."""
