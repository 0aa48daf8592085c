"""A Django project that shows proctree-dagster at work: the month end of two small businesses."""
