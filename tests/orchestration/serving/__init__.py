"""Tests of what a code server serves."""
