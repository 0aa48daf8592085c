"""What trees, schedules, triggers and families are and mean. Pure: no Django, no Dagster.

Every package may import it; it imports nothing of this package but ``exceptions``.
"""
