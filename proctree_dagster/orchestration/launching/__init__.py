"""How a run gets a worker: requesting a fork from the template, and the identity of releases.

``launcher``, ``coordinator`` and ``runs`` import it. Most of it runs in Dagster's daemon and
webserver, which have no Django.
"""
