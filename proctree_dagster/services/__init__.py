"""What reads and changes rows: claims, the outbox, fired triggers, links, schedules. Django only.

``orchestration``, ``running`` and the public modules import it; it imports ``models`` and what is
below.
"""
