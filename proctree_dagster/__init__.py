"""proctree-dagster: every process tree saved in Django's database is a Dagster job."""

__version__ = "0.1.0"
