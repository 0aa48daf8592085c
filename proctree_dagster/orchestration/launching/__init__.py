"""How a run gets a worker: the template process that forks one, and what tells releases apart.

``launcher`` and ``coordinator`` import it, in Dagster's daemon and webserver, without Django.
"""
