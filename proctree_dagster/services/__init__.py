"""The code that reads and changes rows: claims, the outbox, triggers, links, schedules. No Dagster.

``orchestration``, ``running`` and the public modules import it; it imports ``models`` and what is
below.
"""
