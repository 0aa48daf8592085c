"""Runs: created, delivered from the outbox, taken by a worker, watched, found lost, their history.

``executors`` and whatever is above may import it, and ``running`` and ``management``; it imports
``launching``.
"""
