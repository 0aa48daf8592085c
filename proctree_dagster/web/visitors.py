"""Who sends a request: the active user of its Django session, and what they may do in Dagster."""

from dataclasses import dataclass
from http.cookies import CookieError
from importlib import import_module
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth.models import AnonymousUser
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from ..admin.permissions import has_run_permission, may_run
from ..models import ProcessTree
from ..services.dagster_access import ADMINISTER, OPERATE, VIEW, Visitor
from ..support.connections import fresh_connections


@dataclass(frozen=True)
class Seen:
    """A request as Django sees it, and the user of its session."""

    request: HttpRequest
    user: Any
    """The user; anonymous without a session, or if the account is not active any more."""

    @property
    def is_known(self) -> bool:
        """Whether somebody is logged in."""
        return bool(self.user.is_authenticated)


def request_of(scope: Any) -> HttpRequest:
    """Return the request of an HTTP or WebSocket connection, without its body.

    Host, scheme and address are then as Django's settings say they are read behind a proxy.
    """
    as_http = {
        **scope,
        "type": "http",
        "method": scope.get("method", "GET"),
        "scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", ""), scope.get("scheme")),
    }
    return ASGIRequest(as_http, BytesIO())


def look(request: HttpRequest) -> Seen:
    """Return the user of a request's session, as Django's database has them now."""
    with fresh_connections():
        engine = import_module(settings.SESSION_ENGINE)
        try:
            key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        except CookieError:
            key = None
        request.session = engine.SessionStore(key)
        # After a change of SECRET_KEY Django gives the session another key, which the browser would
        # not learn here, for no cookie is set: the site does it.
        request.session.cycle_key = lambda: None  # type: ignore[method-assign]
        user: Any = auth.get_user(request)
        if not user.is_active:
            user = AnonymousUser()
        request.user = user
        return Seen(request, user)


look_async = sync_to_async(look)


def visitor(seen: Seen) -> Visitor:
    """Return what a user may do, as Django's database has it now."""
    with fresh_connections():
        roles = (VIEW, OPERATE, ADMINISTER)
        return Visitor(
            username=seen.user.get_username(),
            user_id=str(seen.user.pk),
            granted=frozenset(role for role in roles if seen.user.has_perm(role)),
            runs_all=_may_run(seen.request),
            runs_tree=lambda job_name: _may_run_tree(seen.request, job_name=job_name),
            runs_schedule=lambda name: _may_run_tree(seen.request, schedule__dagster_name=name),
        )


visitor_async = sync_to_async(visitor)


def _may_run(request: HttpRequest, tree: ProcessTree | None = None) -> bool:
    """Return whether the user may run a tree, as the admin's page of trees says."""
    sites = _sites_with_trees()
    if not sites:
        return may_run(request, tree)
    return all(has_run_permission(site, request, tree) for site in sites)


def _sites_with_trees() -> "list[admin.AdminSite]":
    """Return the admin's sites that have a page of trees; that of the project says who may run.

    Where there are several, each has to agree.
    """
    if not apps.is_installed("django.contrib.admin"):
        return []
    return [site for site in admin.sites.all_sites if site.is_registered(ProcessTree)]


def _may_run_tree(request: HttpRequest, **named: str) -> bool:
    """Return whether the user may run the tree that is named; what is no tree's needs no more."""
    tree = ProcessTree.objects.filter(**named).first()
    return tree is None or _may_run(request, tree)
