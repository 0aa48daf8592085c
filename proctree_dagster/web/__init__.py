"""The Django site and, behind its login, Dagster's UI: one ASGI application.

``gate`` lets requests in, ``visitors`` says who sends them, ``documents`` reads what they ask of
Dagster's API, ``actions`` records what they change, ``application`` puts both sites together.
It imports ``admin``, ``running``, ``services`` and what is below, and ``orchestration`` when it
starts; ``management`` imports it.
"""

import django
from django.apps import apps

if not apps.ready:  # a server has imported it, which names it on its command line
    django.setup()

from .application import Application

application = Application()
"""The application: ``uvicorn proctree_dagster.web:application`` serves it."""

__all__ = ["Application", "application"]
