"""Tests of writing, saving and exporting trees."""
