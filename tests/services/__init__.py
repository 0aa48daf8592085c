"""Tests of what changes rows: claims, outbox, triggers, links."""
