"""What the daemon evaluates: the sensors of triggers, that of the outbox, and that of retention.

``repository`` imports it; it imports ``translator`` and what is below.
"""
