"""Tests of what knows the operating system or Django, and nothing of trees."""
