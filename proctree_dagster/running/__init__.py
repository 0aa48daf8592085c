"""Runs that Python requests: of a tree, of a family. Dagster is imported when one starts.

The public modules and ``management`` import it; it imports ``orchestration`` and what is below.
"""
