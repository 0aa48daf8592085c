"""The checks of ``proctree doctor`` on Dagster and its environment. They only read.

``management`` imports it; it may import all of ``orchestration``.
"""
