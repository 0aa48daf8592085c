"""Dagster's permissions by Django's: none of Dagster's is without a role, no mutation unguarded."""

import asyncio
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from dagster_graphql.schema import create_schema
from dagster_webserver.webserver import DagsterWebserver
from starlette.routing import Mount, Route, WebSocketRoute

from proctree_dagster.orchestration import dagster_internals as internals
from proctree_dagster.orchestration import webserver_app
from proctree_dagster.services.dagster_access import (
    ADMINISTER,
    MUTATIONS,
    OPERATE,
    ROLES,
    VIEW,
    Visitor,
)

UNGUARDED = {"logTelemetry", "setNuxSeen"}
"""Mutations that no permission of Dagster's guards: they are refused."""

NOT_SERVED = {
    "/dagit_info",
    "/notebook",
    "/dagit/notebook",
    "/report_asset_materialization/{asset_key:path}",
    "/report_asset_check/{asset_key:path}",
    "/report_asset_observation/{asset_key:path}",
}
"""Routes of Dagster's webserver that no permission guards, or that nothing uses."""


def test_each_permission_of_dagsters_has_a_role_and_there_is_no_other() -> None:
    assert {str(each) for each in internals.Permissions} == set(ROLES)


def test_each_mutation_of_dagsters_is_guarded_or_refused_and_there_is_no_other() -> None:
    schema = create_schema().graphql_schema
    assert schema.mutation_type is not None
    assert set(schema.mutation_type.fields) == {*MUTATIONS, *UNGUARDED}


def test_each_mutation_needs_the_permission_that_its_resolver_asks_for() -> None:
    fields: Any = create_schema().graphql_schema.mutation_type
    asked = {name: asked_by(field.resolve) for name, field in fields.fields.items()}
    assert {name for name, found in asked.items() if not found} == {
        *UNGUARDED,
        "launchMultipleRuns",  # it asks once for each of the runs
    }
    for name, permission in MUTATIONS.items():
        assert permission in (asked[name] or {permission}), name


def asked_by(resolver: Any) -> set[str]:
    """Return the permissions in the decorators of a resolver."""
    found = set()
    pending = [resolver]
    seen = set()
    while pending:
        function = pending.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        for cell in getattr(function, "__closure__", None) or ():
            if isinstance(cell.cell_contents, internals.Permissions):
                found.add(str(cell.cell_contents))
            elif callable(cell.cell_contents):
                pending.append(cell.cell_contents)
        pending += [each for each in [getattr(function, "__wrapped__", None)] if each]
        owner = getattr(function, "__self__", None)
        if owner is not None and hasattr(owner, "mutate"):
            pending.append(owner.mutate)
    return found


@pytest.mark.parametrize("prefix", ["", "/dagster"])
def test_each_route_of_dagsters_is_served_or_not_on_purpose(prefix: str) -> None:
    theirs = paths(DagsterWebserver.build_routes(blank(DagsterWebserver, prefix)))  # type: ignore[no-untyped-call]
    assert theirs == {*webserver_app.SERVED, *NOT_SERVED}
    ours = blank(webserver_app.GatedWebserver, prefix).build_routes()
    assert paths(ours) == set(webserver_app.SERVED)


def blank(kind: Any, prefix: str) -> Any:
    """Return a webserver that was not opened: it can only say its routes."""
    found = kind.__new__(kind)
    found._app_path_prefix = prefix
    return found


def paths(routes: Any) -> set[str]:
    """Return the paths of routes, without those of static files."""
    found = set()
    for each in routes:
        if isinstance(each, Mount) and not (each.name or "").endswith("_static"):
            found |= paths(each.routes)
        elif isinstance(each, Route | WebSocketRoute) and not (each.name or "").endswith("_static"):
            found.add(each.path)
    return found


def visitor(*granted: str, runs_all: bool = True, runs: Any = lambda name: True) -> Visitor:
    return Visitor("ann", "7", frozenset(granted), runs_all, runs_tree=runs, runs_schedule=runs)


def test_who_may_only_see_has_no_permission_of_dagsters() -> None:
    assert not any(visitor(VIEW).may(each) for each in ROLES)
    assert not any(visitor(VIEW).may_on_job(each, "tree") for each in ROLES)


def test_who_operates_has_what_runs_and_switches_and_nothing_that_deletes() -> None:
    may = {each for each in ROLES if visitor(VIEW, OPERATE).may(each)}
    assert "launch_pipeline_execution" in may
    assert "start_schedule" in may
    assert not may & {"delete_pipeline_run", "wipe_assets", "reload_workspace"}


def test_who_operates_needs_the_permission_to_run_the_tree_too() -> None:
    one = visitor(VIEW, OPERATE, runs_all=False, runs=lambda name: name == "mine")
    assert not one.may("launch_pipeline_execution")
    assert one.may_on_job("launch_pipeline_execution", "mine")
    assert not one.may_on_job("launch_pipeline_execution", "theirs")


def test_what_dagster_may_add_is_granted_to_nobody() -> None:
    everything = visitor(VIEW, OPERATE, ADMINISTER)
    assert not everything.may("something_new")
    assert not everything.may_on_job("something_new", "tree")


def test_a_backfill_has_the_name_of_its_user_whatever_tag_they_give_it() -> None:
    context: Any = SimpleNamespace(visitor=visitor(VIEW, OPERATE))
    assert webserver_app.GatedRequestContext.get_viewer_tags(context) == {"user": "ann"}


@pytest.mark.parametrize("name", ["stop_schedule", "stop_sensor"])
def test_the_ids_of_two_schedules_stop_none_that_the_user_may_not_stop(name: str) -> None:
    stopped: list[str] = []
    instance: Any = SimpleNamespace(
        get_instigator_state=lambda origin, selector: SimpleNamespace(
            instigator_name=f"{selector} by night"
        ),
        stop_schedule=lambda origin, selector, found: stopped.append(selector),
        stop_sensor=lambda origin, selector, found: stopped.append(selector),
    )
    webserver_app.guard_stopping(instance)
    one = visitor(VIEW, OPERATE, runs=lambda name: name == "mine by night")

    def stop(selector: str) -> None:
        webserver_app._visiting.set(one)
        getattr(instance, name)("of mine", selector, None)

    copy_context().run(stop, "mine")
    with pytest.raises(PermissionError, match="may not stop 'theirs"):
        copy_context().run(stop, "theirs")
    assert stopped == ["mine"]


def test_a_subscription_keeps_the_rules_of_a_query() -> None:
    server = blank(webserver_app.GatedWebserver, "")
    server._graphene_schema = create_schema()
    server._graphql_validation_rules = server.build_graphql_validation_rules()
    deep = "a { " * 40 + "b" + " }" * 40
    for text, said in [
        ("subscription { nothing }", "Cannot query field 'nothing'"),
        (f"subscription {{ {deep} }}", "nested 41 deep"),
    ]:
        asked = server.execute_graphql_subscription(None, "1", text, None, None)
        task, problem = asyncio.run(asked)
        assert task is None
        assert said in problem["message"]
