"""How a run gets a worker: asking the template to fork one, and what tells releases apart.

``launcher``, ``coordinator`` and ``runs`` import it. Most of it runs in Dagster's daemon and
webserver, which have no Django.
"""
