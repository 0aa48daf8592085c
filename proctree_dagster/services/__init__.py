"""The code that reads and changes rows: claims, the outbox, triggers, links, schedules. No Dagster.

Also what asks about them without Dagster: the system checks, broken rows, Dagster's webserver.

``orchestration``, ``running`` and the public modules import it; it imports ``models`` and what is
below.
"""
