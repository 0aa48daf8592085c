"""Removing history: runs that ended long ago, with all that belongs to them, and old ticks.

``passes`` has the order of a pass. ``automation`` and ``running`` may import it; it imports
``runs`` and what is below.
"""
