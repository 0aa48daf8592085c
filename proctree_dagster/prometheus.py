"""Metrics for Prometheus: a collector, and a view that serves them as text.

The view needs no library. The collector is for projects that serve a registry of their own with
``prometheus_client`` (``pip install 'proctree-dagster[prometheus]'``).

::

    # urls.py
    path("proctree/metrics", proctree_dagster.prometheus.metrics)

    # or where your registry is served
    prometheus_client.REGISTRY.register(proctree_dagster.prometheus.TreeCollector())
"""

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import conf
from .domain.metrics import CONTENT_TYPE, MOST_TREES, as_text
from .running.metrics import collect

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

PERMISSION = "proctree_dagster.view_run"
"""What a user needs who reads the metrics."""

__all__ = ["TreeCollector", "metrics"]


class TreeCollector:
    """Asks for the metrics of trees whenever a registry of ``prometheus_client`` is read.

    Parameters
    ----------
    most_trees:
        How many trees have a label of their own; the others have one together.
    """

    def __init__(self, most_trees: int = MOST_TREES) -> None:
        self.most_trees = most_trees

    def describe(self) -> list["GaugeMetricFamily"]:
        """Return nothing: to be registered must not ask a database."""
        return []

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """Yield the metrics as they are now."""
        from prometheus_client.core import GaugeMetricFamily

        for metric in collect(self.most_trees):
            labels = [] if "" in metric.samples else ["tree"]
            family = GaugeMetricFamily(metric.name, metric.help, labels=labels)
            for tree, value in metric.samples.items():
                family.add_metric([tree] if labels else [], value)
            yield family


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Serve the metrics as text, to whom has the token or the permission to see runs.

    Parameters
    ----------
    request:
        With ``Authorization: Bearer …`` and ``PROCTREE["METRICS_TOKEN"]``, or of a user who may see
        runs.
    """
    if not (_has_token(request) or _is_allowed(request)):
        answer = HttpResponse("Metrics need a token, or a login.", "text/plain", status=401)
        answer["WWW-Authenticate"] = "Bearer"
        return answer
    return HttpResponse(as_text(collect()), content_type=CONTENT_TYPE)


def _has_token(request: HttpRequest) -> bool:
    token = conf.current().METRICS_TOKEN
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(given.strip().encode(), token.encode())


def _is_allowed(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)  # none without Django's middleware of logins
    return user is not None and user.is_active and user.has_perm(PERMISSION)
