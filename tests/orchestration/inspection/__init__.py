"""Tests of ``proctree doctor`` and of what it inspects."""
