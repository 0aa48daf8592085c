"""Dagster's webserver as an ASGI application that asks who sends a request (see ``web``).

A request's context is made in one place, from the connection, for HTTP and WebSocket alike; here it
is one whose permissions are those of the ``Visitor`` whom the gate has put into the connection's
scope. Without one there is no context, so nothing is served that the gate has not let in.
"""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRun, SubmitRunContext
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from graphql import (
    ASTValidationRule,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    Node,
    OperationDefinitionNode,
    parse,
    validate,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ..domain import run_tags
from ..services.dagster_access import RECORDER, VISITOR, Visitor
from ..support.connections import own_connections
from . import dagster_internals as internals
from .runs import opening

logger = logging.getLogger(__name__)

OnMutation = Callable[[Visitor, str, Mapping[str, Any] | None, str | None], None]
"""Takes the visitor, the document, its variables and the operation's name."""

MAX_DEPTH = 30
"""How deep a query may be nested. The deepest of Dagster's own UI has a depth of 22."""

DEBUG_FILE = "/download_debug/{run_id:str}"

SERVED = ("/", "/{path:path}", "/server_info", "/graphql", "/logs/{path:path}", DEBUG_FILE)
"""The paths that are served, besides Dagster's static files: a permission guards all of them.

Not served are those by which assets are reported and notebooks are read.
"""

_asking = ThreadPoolExecutor(4, "proctree-dagster-permissions")
"""Threads that ask Django's database: a resolver runs in an event loop, where Django refuses."""


_visiting: ContextVar[Visitor] = ContextVar("visiting")
"""Who has sent the query that is executed, in its thread."""


def visitor_of(connection: object) -> Visitor:
    """Return who has sent a request.

    Raises
    ------
    PermissionError
        The gate has let nobody in.
    """
    scope: Any = getattr(connection, "scope", {})
    found = scope.get(VISITOR)
    if not isinstance(found, Visitor):
        raise PermissionError("Dagster is served through the gate only (proctree_dagster.web).")
    return found


class GatedRequestContext(internals.WorkspaceRequestContext):
    """A request's context with the permissions of the user who has sent it."""

    @property
    def visitor(self) -> Visitor:
        """The user."""
        return visitor_of(self.source)

    @property
    def permissions(self) -> Mapping[str, internals.PermissionResult]:
        """Each of Dagster's permissions, as the UI reads them."""
        return {str(each): self._result(str(each)) for each in internals.Permissions}

    def permissions_for_location(
        self, *, location_name: str
    ) -> Mapping[str, internals.PermissionResult]:
        """Each permission that can be given for one location: as everywhere."""
        scoped = internals.LOCATION_SCOPED_PERMISSIONS
        return {str(each): self._result(str(each)) for each in scoped}

    def _result(self, permission: str) -> internals.PermissionResult:
        may = self.visitor.may(permission)
        reason = None if may else "You lack the permission for this in Django."
        return internals.PermissionResult(enabled=may, disabled_reason=reason)

    def has_permission(self, permission: str) -> bool:
        """Return whether the user has a permission, for no tree in particular."""
        return self._note(permission, super().has_permission(permission))

    def has_permission_for_location(self, permission: str, location_name: str) -> bool:
        """Return whether the user has a permission for a code location."""
        may = super().has_permission_for_location(permission, location_name)
        return self._note(permission, may)

    def has_permission_for_selector(self, permission: str, selector: Any) -> bool:
        """Return whether the user has a permission for a job, a schedule, a sensor or an asset."""
        self._checked_permissions.add(permission)
        schedule = getattr(selector, "schedule_name", None)
        if isinstance(schedule, str):
            return self._note(permission, _ask(self.visitor.may_on_schedule, permission, schedule))
        job_name = getattr(selector, "job_name", None)
        if isinstance(job_name, str):
            return self._note(permission, _ask(self.visitor.may_on_job, permission, job_name))
        return self._note(permission, self.visitor.may(permission))

    def get_viewer_tags(self) -> dict[str, str]:
        """Return the tags of a backfill, and so of the runs that the daemon launches for it."""
        return {run_tags.USER: self.visitor.username}

    def reload_code_location(self, name: str) -> "GatedRequestContext":
        """Reload a code location, and return the context of the same user after it."""
        self.process_context.reload_code_location(name)
        return self._anew()

    def reload_workspace(self) -> "GatedRequestContext":
        """Reload every code location, and return the context of the same user after it."""
        self.process_context.reload_workspace()
        return self._anew()

    def _anew(self) -> "GatedRequestContext":
        context = self.process_context.create_request_context(self.source)
        assert isinstance(context, GatedRequestContext)  # for the type checker
        return context

    def _note(self, permission: str, may: bool) -> bool:
        if may:
            self.visitor.allowed.add(str(permission))
        return may


def _ask(function: Callable[..., bool], *args: str) -> bool:
    """Call a function that reads Django's database, in a thread without an event loop."""

    def ask() -> bool:
        with own_connections():
            return function(*args)

    return _asking.submit(ask).result()


class GatedProcessContext(internals.WorkspaceProcessContext):
    """The workspace of the webserver, whose requests have their users' permissions."""

    def create_request_context(self, source: Any | None = None) -> GatedRequestContext:
        """Return the context of a request.

        Raises
        ------
        PermissionError
            The gate has let nobody in.
        """
        visitor_of(source)
        return GatedRequestContext(
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=False,
        )


class GatedWebserver(DagsterWebserver[GatedProcessContext, GatedRequestContext]):
    """Dagster's webserver without what no permission guards, and with a bound on queries."""

    def build_routes(self) -> list[BaseRoute]:
        """Return those of Dagster's routes that are served."""
        routes: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]
        prefix = [each for each in routes if isinstance(each, Mount) and not each.name]
        if prefix:  # it holds the others
            return [Mount(each.path, routes=_served(each.routes)) for each in prefix]
        return _served(routes)

    def build_graphql_validation_rules(self) -> Collection[type[ASTValidationRule]]:
        """Return GraphQL's rules, and one that bounds the depth of a query."""
        return [*super().build_graphql_validation_rules(), DepthLimit]

    def graphql_execution_thread(
        self,
        request: Request,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> JSONResponse:
        """Execute a query; record what it has changed, even if it could not be answered."""
        visitor, record = visitor_of(request), request.scope.get(RECORDER)
        _visiting.set(visitor)
        try:
            return super().graphql_execution_thread(request, query, variables, operation_name)
        finally:
            if record is not None:
                with own_connections():
                    record(visitor, query, variables, operation_name)

    async def execute_graphql_subscription(
        self,
        websocket: WebSocket,
        operation_id: str,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> tuple[Any, Any]:
        """Subscribe, if the document keeps the rules; Dagster asks for them in a query only."""
        schema = self._graphene_schema.graphql_schema
        problems = validate(schema, parse(query), self._graphql_validation_rules)
        if problems:
            return None, problems[0].formatted
        answer: tuple[Any, Any] = await super().execute_graphql_subscription(
            websocket, operation_id, query, variables, operation_name
        )
        return answer


def _served(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    return [
        each
        for each in routes
        if isinstance(each, Route | Mount | WebSocketRoute)
        and (each.path in SERVED or (each.name or "").endswith("_static"))
    ]


class DepthLimit(ASTValidationRule):
    """Refuses a query that is nested deeper than ``MAX_DEPTH``."""

    def enter_document(self, document: DocumentNode, *_: Any) -> None:
        """Measure each operation."""
        depth = depth_of(document)
        if depth > MAX_DEPTH:
            said = f"The query is nested {depth} deep; {MAX_DEPTH} is the most."
            self.report_error(GraphQLError(said, document))


def depth_of(document: DocumentNode) -> int:
    """Return how deep a document's operations are nested, fragments included.

    A fragment that contains itself counts once: another rule refuses it.
    """
    fragments = {
        each.name.value: each
        for each in document.definitions
        if isinstance(each, FragmentDefinitionNode)
    }
    known: dict[str, int] = {}

    def below(node: Node) -> int:
        selected = getattr(node, "selection_set", None)
        return max((depth(each) for each in selected.selections), default=0) if selected else 0

    def depth(node: Node) -> int:
        if isinstance(node, FieldNode):
            return 1 + below(node)
        if isinstance(node, InlineFragmentNode):
            return below(node)
        if isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name not in known:
                known[name] = 0
                known[name] = below(fragments[name]) if name in fragments else 0
            return known[name]
        return 0

    operations = [
        each for each in document.definitions if isinstance(each, OperationDefinitionNode)
    ]
    return max(map(below, operations), default=0)


@contextmanager
def opened(
    paths: Sequence[str], workspace: Path, log_level: str = "info"
) -> Iterator[list[Starlette]]:
    """Open the instance and the workspace, and return applications that serve them.

    Parameters
    ----------
    paths:
        The path under which each is served, without a slash at its end.
    workspace:
        The file that names the code locations.
    log_level:
        The lowest level that code servers log which this starts.

    Raises
    ------
    InstanceError
        Dagster has no home, or its storage can't be opened.
    """
    with opening.open_instance(persistent=True) as instance:
        instance.optimize_for_webserver(
            statement_timeout=15_000, pool_recycle=3_600, max_overflow=20
        )
        tag_with_users(instance)
        guard_stopping(instance)
        with GatedProcessContext(
            instance,
            version=__version__,
            workspace_load_target=internals.WorkspaceFileTarget([str(workspace)]),
            code_server_log_level=log_level,
        ) as context:
            yield [GatedWebserver(context, path).create_asgi_app() for path in paths]


def tag_with_users(instance: DagsterInstance) -> None:
    """Tag each run that is launched through this instance with the user who has launched it."""
    submit = instance.run_coordinator.submit_run

    @functools.wraps(submit)
    def submit_run(context: SubmitRunContext) -> DagsterRun:
        visitor = visitor_of(getattr(context.workspace, "source", None))
        run_id = context.dagster_run.run_id
        instance.add_run_tags(run_id, {run_tags.USER: visitor.username})
        visitor.launched.append(run_id)
        tagged = context.dagster_run.with_tags(
            {**context.dagster_run.tags, run_tags.USER: visitor.username}
        )
        return submit(context._replace(dagster_run=tagged))

    instance.run_coordinator.submit_run = submit_run  # type: ignore[method-assign]


def guard_stopping(instance: DagsterInstance) -> None:
    """Refuse to stop what its user may not stop, through this instance.

    A schedule or a sensor is stopped by two ids. Dagster asks for the permission of what the first
    one names, and changes what the second one names.
    """

    def guarded(stop: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stop)
        def stop_one(origin_id: str, selector_id: str, *found: Any) -> Any:
            state = instance.get_instigator_state(origin_id, selector_id)
            if state is not None:
                visitor = _visiting.get()
                if not _ask(
                    visitor.may_on_schedule, "stop_running_schedule", state.instigator_name
                ):
                    raise PermissionError(f"You may not stop {state.instigator_name!r}.")
            return stop(origin_id, selector_id, *found)

        return stop_one

    instance.stop_schedule = guarded(instance.stop_schedule)  # type: ignore[method-assign]
    instance.stop_sensor = guarded(instance.stop_sensor)  # type: ignore[method-assign]
