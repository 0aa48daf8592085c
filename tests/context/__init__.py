"""Tests of contexts: encoding, tags, lookups, and what they may not reach."""
