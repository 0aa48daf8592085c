"""proctree-dagster: every process tree saved in Django's database is a Dagster job."""

from .support import moved

__version__ = "0.1.0"

moved.install()
