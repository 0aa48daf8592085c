"""Tools that tests, benchmarks and scripts share: real stacks, browsers, databases, hosts."""

from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The folder of the clone."""
