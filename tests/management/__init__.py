"""Tests of ``manage.py proctree`` and of generated commands."""
