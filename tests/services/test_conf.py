"""``settings.PROCTREE`` and the system checks."""

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from proctree_dagster import conf


def found_by_check() -> dict[str, list[str]]:
    """Return the messages of our system checks, by their id."""
    result: dict[str, list[str]] = {}
    for each in run_checks(tags=["proctree_dagster"]):
        result.setdefault(str(each.id).removeprefix("proctree_dagster."), []).append(each.msg)
    return result


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


# --- Reading --------------------------------------------------------------------------------------


@override_settings(PROCTREE={})
def test_every_key_is_optional() -> None:
    current = conf.current()
    assert current.FUNCTION_MODULES is None
    assert current.DEFINITIONS is None
    assert current.MAX_CONCURRENT == 4
    assert current.POOLS == {}
    assert current.DAGSTER_HOME == "", "the folder beside manage.py"
    assert current.DAGSTER_URL is None
    assert current.SITE_URL is None
    assert current.CACHE == "default"
    assert current.COMMANDS_APP is None
    assert current.CONTEXT_MODELS is None
    assert current.TRIGGER_MODELS is None
    assert found_by_check() == {}


def test_a_project_without_the_setting_has_the_defaults() -> None:
    from django.conf import settings

    with override_settings():
        del settings.PROCTREE
        assert conf.current() == conf.Settings()
        assert found_by_check() == {}


def test_the_setting_is_read_anew_each_time() -> None:
    with override_settings(PROCTREE={"MAX_CONCURRENT": 9}):
        assert conf.current().MAX_CONCURRENT == 9
        with override_settings(PROCTREE={"DAGSTER_URL": "http://localhost:3000"}):
            assert conf.current().MAX_CONCURRENT == 4
            assert conf.current().DAGSTER_URL == "http://localhost:3000"
    assert conf.current().DAGSTER_URL is None


GOOD: list[tuple[str, Any, Any]] = [
    ("FUNCTION_MODULES", ["a", "b.c"], ("a", "b.c")),
    ("FUNCTION_MODULES", ("a",), ("a",)),
    ("FUNCTION_MODULES", {"a"}, ("a",)),
    ("FUNCTION_MODULES", [], ()),
    ("FUNCTION_MODULES", None, None),
    ("DEFINITIONS", "project.definitions", "project.definitions"),
    ("TRANSLATOR", "project.Translator", "project.Translator"),
    ("EXECUTOR", "threads", "threads"),
    ("MAX_CONCURRENT", 1, 1),
    ("RUNS_PER_WORKER", 1, 1),
    ("MEMORY_PER_WORKER", 2048, 2048),
    ("POOLS", {"xero": 2}, {"xero": 2}),
    ("DAGSTER_HOME", "/srv/dagster", "/srv/dagster"),
    ("DAGSTER_HOME", Path("/srv/dagster"), "/srv/dagster"),
    ("DAGSTER_HOME", None, None),
    ("DAGSTER_URL", "http://localhost:3000", "http://localhost:3000"),
    ("SITE_URL", None, None),
    ("CACHE", "redis", "redis"),
    ("COMMANDS_APP", "ledger", "ledger"),
    ("CONTEXT_MODELS", ["ledger", "auth.User"], ("ledger", "auth.User")),
    ("SENTRY", ["errors", "crons"], ("errors", "crons")),
    ("SENTRY", [], ()),
    ("PRELOAD", True, True),
    ("TRIGGER_MODELS", [], ()),
]


@pytest.mark.parametrize(("key", "value", "read"), GOOD)
def test_a_right_value_is_taken(key: str, value: Any, read: Any) -> None:
    with override_settings(PROCTREE={key: value}):
        assert getattr(conf.current(), key) == read


# --- What is wrong --------------------------------------------------------------------------------

BAD: list[tuple[str, Any]] = [
    ("FUNCTION_MODULES", "apps"),
    ("FUNCTION_MODULES", [""]),
    ("FUNCTION_MODULES", [5]),
    ("FUNCTION_MODULES", {"a": "b"}),
    ("DEFINITIONS", ""),
    ("TRANSLATOR", object),
    ("EXECUTOR", 5),
    ("MAX_CONCURRENT", 0),
    ("MAX_CONCURRENT", "4"),
    ("MAX_CONCURRENT", True),
    ("MAX_CONCURRENT", 2.0),
    ("MAX_CONCURRENT", None),
    ("RUNS_PER_WORKER", 0),
    ("MEMORY_PER_WORKER", "512 MiB"),
    ("POOLS", None),
    ("POOLS", ["xero"]),
    ("POOLS", {"xero": 0}),
    ("POOLS", {"xero": "2"}),
    ("POOLS", {"": 1}),
    ("DAGSTER_HOME", ""),
    ("DAGSTER_HOME", 5),
    ("DAGSTER_URL", ""),
    ("DAGSTER_URL", 3000),
    ("DAGSTER_URL", Path("/srv")),
    ("SITE_URL", False),
    ("CACHE", None),
    ("COMMANDS_APP", ""),
    ("CONTEXT_MODELS", "ledger"),
    ("SENTRY", True),
    ("SENTRY", "errors"),
    ("SENTRY", ["error"]),
    ("PRELOAD", 1),
    ("TRIGGER_MODELS", [5]),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_wrong_value_is_refused_with_what_it_should_be(key: str, value: Any) -> None:
    with override_settings(PROCTREE={key: value}):
        with pytest.raises(ImproperlyConfigured) as raised:
            conf.current()
        assert str(raised.value).startswith(f"PROCTREE[{key!r}] must be ")
        assert str(raised.value).endswith(f", not {value!r}.")
        assert found_by_check() == {"E001": [str(raised.value)]}


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("FUNCTION_MODULE", "Did you mean 'FUNCTION_MODULES'?"),
        ("dagster_url", "Did you mean 'DAGSTER_URL'?"),
        ("MAX_CONCURENT", "Did you mean 'MAX_CONCURRENT'?"),
        ("COLOUR_OF_THE_SKY", "Known keys: FUNCTION_MODULES, DEFINITIONS, "),
        (5, "Known keys: "),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(key: Any, hint: str) -> None:
    with override_settings(PROCTREE={key: 1}):
        with pytest.raises(ImproperlyConfigured) as raised:
            conf.current()
        assert f"PROCTREE has no key {key!r}. {hint}" in str(raised.value)
        assert list(found_by_check()) == ["E001"]


@pytest.mark.parametrize("value", [None, [], "threads", 5])
def test_a_setting_that_is_no_dictionary_is_refused(value: Any) -> None:
    with override_settings(PROCTREE=value):
        with pytest.raises(ImproperlyConfigured, match="PROCTREE must be a dictionary, not "):
            conf.current()
        assert list(found_by_check()) == ["E001"]


def test_everything_that_is_wrong_is_named_at_once() -> None:
    wrong = {"MAX_CONCURRENT": 0, "COLOUR": 1, "CACHE": ""}
    with override_settings(PROCTREE=wrong):
        with pytest.raises(ImproperlyConfigured) as raised:
            conf.current()
        assert all(key in str(raised.value) for key in wrong)
        assert len(found_by_check()["E001"]) == 3


# --- System checks --------------------------------------------------------------------------------


@override_settings(USE_TZ=False)
def test_schedules_need_time_zones() -> None:
    [message] = found_by_check()["E002"]
    assert "USE_TZ is False" in message


def test_a_home_that_is_not_the_environments_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "other"))
    with override_settings(PROCTREE={"DAGSTER_HOME": str(tmp_path)}):
        [message] = found_by_check()["E003"]
    assert repr(str(tmp_path)) in message
    assert repr(str(tmp_path / "other")) in message


def test_a_home_that_is_the_environments_by_another_path_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "link"))
    with override_settings(PROCTREE={"DAGSTER_HOME": tmp_path}):
        assert found_by_check() == {}


def test_a_home_that_is_no_folder_is_a_warning(tmp_path: Path) -> None:
    with override_settings(PROCTREE={"DAGSTER_HOME": str(tmp_path / "gone")}):
        assert list(found_by_check()) == ["W001"]


@override_settings(USE_TZ=False, PROCTREE={"COLOUR": 1})
def test_checks_report_everything_at_once() -> None:
    assert set(found_by_check()) == {"E001", "E002"}


def test_time_zones_and_the_home_are_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "other"))
    with override_settings(USE_TZ=False, PROCTREE={"DAGSTER_HOME": str(tmp_path)}):
        assert set(found_by_check()) == {"E002", "E003"}


FITTING = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": "/srv/db.sqlite3",
    "OPTIONS": {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
    },
}


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("timeout", "timeout is not at least 10 seconds"),
        ("transaction_mode", "transaction_mode is not IMMEDIATE"),
        ("init_command", "does not switch the write-ahead log on"),
    ],
)
def test_sqlite_that_does_not_fit_threads_is_a_warning(
    settings: Any, monkeypatch: pytest.MonkeyPatch, option: str, complaint: str
) -> None:
    options = {key: value for key, value in FITTING["OPTIONS"].items() if key != option}  # type: ignore[attr-defined]
    unfit = {**FITTING, "OPTIONS": options}
    monkeypatch.setitem(settings.DATABASES, "fits", FITTING)
    monkeypatch.setitem(settings.DATABASES, "books", unfit)
    [message] = found_by_check()["W003"]
    assert "'books'" in message
    assert complaint in message
    assert ";" not in message


@pytest.mark.parametrize(
    ("proctree", "changes"),
    [
        ({}, {}),
        ({"EXECUTOR": "in_process"}, {"OPTIONS": {"transaction_mode": "IMMEDIATE"}}),
        ({"MAX_CONCURRENT": 1}, {"OPTIONS": {"transaction_mode": "EXCLUSIVE"}}),
        ({}, {"OPTIONS": {}, "ENGINE": "django.db.backends.postgresql"}),
        ({}, {"OPTIONS": {}, "NAME": ":memory:"}),
    ],
)
def test_where_nothing_is_wrong_with_sqlite_nothing_is_said(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    proctree: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    settings.PROCTREE = proctree
    monkeypatch.setitem(settings.DATABASES, "default", {**FITTING, **changes})
    monkeypatch.setitem(settings.DATABASES, "books", {**FITTING, **changes})
    assert found_by_check() == {}


@pytest.mark.parametrize("proctree", [{"EXECUTOR": "in_process"}, {"MAX_CONCURRENT": 1}])
def test_beside_the_signs_of_life_a_transaction_on_sqlite_must_be_immediate(
    settings: Any, monkeypatch: pytest.MonkeyPatch, proctree: dict[str, Any]
) -> None:
    settings.PROCTREE = proctree
    monkeypatch.setitem(settings.DATABASES, "default", {**FITTING, "OPTIONS": {}})
    monkeypatch.setitem(settings.DATABASES, "books", {**FITTING, "OPTIONS": {}})
    [message] = found_by_check()["W003"]
    assert message.startswith("Each run's signs of life are written every few seconds")
    assert "'default'" in message, "nothing is written to the other one"
    assert "timeout" not in message


def test_processes_of_the_operating_system_side_by_side_need_a_fitting_sqlite_too(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PROCTREE = {"EXECUTOR": "multiprocess"}
    monkeypatch.setitem(settings.DATABASES, "books", {**FITTING, "OPTIONS": {}})
    assert "'books'" in found_by_check()["W003"][0]


@pytest.mark.parametrize("name", ["celery", "dagster_celery.celery_executor"])
def test_sqlite_is_a_warning_where_processes_run_on_several_machines(
    settings: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings.PROCTREE = {"EXECUTOR": name}
    monkeypatch.setitem(settings.DATABASES, "books", FITTING)
    postgresql = {**FITTING, "ENGINE": "django.db.backends.postgresql"}
    monkeypatch.setitem(settings.DATABASES, "shared", postgresql)
    messages = found_by_check()["W004"]
    assert any("'books'" in message for message in messages)
    assert not any("'shared'" in message for message in messages)


def test_an_executor_that_is_not_there_is_an_error(settings: Any) -> None:
    settings.PROCTREE = {"EXECUTOR": "k8s_job"}
    [message] = found_by_check()["E005"]
    assert "not installed: pip install dagster-k8s" in message


# --- What is kept ---------------------------------------------------------------------------------


@override_settings(PROCTREE={"KEEP": {"runs": "90 days", "failed_runs": "the last 500"}})
def test_what_is_kept_is_read_as_rules() -> None:
    keep = conf.current().KEEP
    assert (str(keep.runs), str(keep.failed_runs), str(keep.events)) == (
        *("90 days", "last 500"),
        "all",
    )
    assert str(keep.outbox) == "30 days", "as it always was"


@override_settings(PROCTREE={"KEEP": {"runs": "soon", "log": "1 day"}})
def test_each_wrong_rule_of_what_is_kept_is_named() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.current()
    assert "PROCTREE['KEEP']['runs'] must be an age such as '90 days'" in str(caught.value)
    assert "PROCTREE['KEEP'] has no key 'log'" in str(caught.value)


@override_settings(PROCTREE={"ALERTS": {"to": ["a@b.c", "chat"], "webhooks": {"chat": "http://c"}}})
def test_alerts_are_read_with_their_defaults() -> None:
    alerts = conf.current().ALERTS
    assert (alerts.to, alerts.webhooks["chat"].url) == (("a@b.c", "chat"), "http://c")
    assert (alerts.on, alerts.late_minutes) == (("failure", "recovered", "late"), 10)
    assert "http://c" not in repr(alerts)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "PROCTREE['ALERTS'] must be a dictionary, not list."),
        ({"two": []}, "PROCTREE['ALERTS'] has no key 'two'. Known keys: to, on,"),
        ({"to": "a@b.c"}, "PROCTREE['ALERTS']['to'] must be a list of texts, not str."),
        ({"to": ["chat"]}, "PROCTREE['ALERTS']['to']: 'chat' is neither a mail address nor a name"),
        ({"to": ["@b"]}, "PROCTREE['ALERTS']['to']: '@b' is no mail address."),
        ({"on": ["rain"]}, "PROCTREE['ALERTS']['on']: there is no kind of alert 'rain'; there are"),
        ({"late_minutes": 0}, "['late_minutes'] must be a whole number of minutes, not 0."),
        ({"webhooks": ["http://c/token"]}, "['webhooks'] must be a dictionary of names and"),
        ({"webhooks": {"c": "ftp://c/token"}}, "['webhooks']['c']: its url must begin with http"),
        ({"webhooks": {"a@b": "http://c"}}, "['webhooks']['a@b']: a name is a text without '@'."),
        ({"webhooks": {"c": {"uri": "token"}}}, "['webhooks']['c'] must be an address, or a dict"),
        ({"webhooks": {"c": {"url": "http://c", "headers": 1}}}, "its headers must be a dict"),
        ({"apprise": {"c": 1}}, "['apprise'] must be a dictionary of names and apprise's URLs."),
    ],
)
def test_a_problem_of_alerts_names_its_place_and_shows_no_address(given: Any, said: str) -> None:
    with override_settings(PROCTREE={"ALERTS": given}):
        with pytest.raises(ImproperlyConfigured) as caught:
            conf.current()
        assert said in str(caught.value)
        assert "token" not in str(caught.value)


@pytest.mark.parametrize("token", ["short", "", " " * 20, 5, ["a-token-of-twenty-letters"]])
def test_a_token_is_long_and_no_message_shows_it(token: Any) -> None:
    wrong = override_settings(PROCTREE={"METRICS_TOKEN": token})
    with wrong, pytest.raises(ImproperlyConfigured) as caught:
        conf.current()
    assert "PROCTREE['METRICS_TOKEN'] must be a text of at least 16 characters" in str(caught.value)
    assert "not shown" in str(caught.value)
