"""What the daemon evaluates: the sensors of triggers, and the outbox's, which delivers its runs.

``repository`` imports it; it imports ``translator`` and what is below.
"""
