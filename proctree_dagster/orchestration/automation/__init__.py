"""What the daemon evaluates: the sensors of triggers, of the outbox, of alerts and of retention.

``repository`` imports it; it imports ``translator`` and what is below.
"""
