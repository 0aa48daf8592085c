"""What the daemon evaluates: ticks of schedules, sensors of triggers, and the outbox's delivery.

``repository`` and ``translator`` import it; it imports ``runs``.
"""
