"""Tests of the models and of the rows that they read."""
