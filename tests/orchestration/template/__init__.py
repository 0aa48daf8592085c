"""Tests of the template process."""
