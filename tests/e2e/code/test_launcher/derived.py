"""A project's own backend of tasks."""

from proctree_dagster.django_tasks import DagsterBackend


class Derived(DagsterBackend):
    """Differs from ours by its name."""
