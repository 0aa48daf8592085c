"""Runs: created, taken by a worker, watched, found lost, repeated, and their history.

Everything in ``orchestration`` may import it, and ``running`` and ``management`` above.
"""
