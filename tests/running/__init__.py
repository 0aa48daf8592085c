"""Tests of runs that Python code asks for."""
