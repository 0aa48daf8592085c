"""What the database may not reach: models and fields that hold secrets."""

from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from django.apps import AppConfig, apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.fields import GenericRelation
from django.contrib.sessions.models import Session
from django.db import models
from django.test import override_settings
from pytest_django import Settings

from example.ledger.models import Account
from proctree_dagster.context import lookups, sensitive
from proctree_dagster.domain.operators import MISSING
from proctree_dagster.models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
)
from proctree_dagster.services import broken_rows
from proctree_dagster.support import project_apps
from tests.app.models import AccessToken, Call, Customer, Holding, Organisation
from tests.services.test_conf import found_by_check

USES: tuple[sensitive.Use, ...] = ("CONTEXT_MODELS", "TRIGGER_MODELS")

SECRET = (
    *("password", "passwd", "pwd", "user_password", "password_hash", "hashed", "salt"),
    *("token", "accessToken", "refresh_token", "AuthTokens", "jwt", "csrf", "cookie"),
    *("secret", "client_secret", "api_key", "apiKey", "APIKey", "private_key", "session_data"),
    *("session_key", "credentials", "totp", "TOTPDevice", "backup_codes", "pin", "encrypted_iban"),
    *("pass", "passkey", "pw", "master_pw", "token2", "basic_auth", "DATABASE_URL", "redis_url"),
    *(
        "presigned_url",
        "reset_link",
        "smtp_pass",
        "dbPass",
        "seed_phrase",
        "mnemonic",
        "login_code",
        "consumer_key",
        "gpg_key",
    ),
)
NO_SECRET = (
    *("name", "username", "author", "key", "status", "pinned", "spinner", "tokenizer"),
    *("total_tokens", "max_tokens", "tokens_used", "token_limit", "tokens_price"),
    *("sync_token", "next_page_token", "payload_hash", "import_hash", "transaction_hash"),
    *("passes", "upwards", "url", "image_url", "database", "assigned_url", "tokens_price"),
    *("boarding_pass", "pass_rate", "bypass", "phrase", "country_code", "postal_code", "deploy"),
    *("tenant_id", "user", "owner", "external_id", "xero_id", "reference", "account_code"),
    *("password_changed_at", "token_type", "token_count", "has_password", "secretary", "file_hash"),
)


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert sensitive.is_sensitive_name(name)


@pytest.mark.parametrize("name", NO_SECRET)
def test_what_only_resembles_a_secret_or_is_about_one_is_none(name: str) -> None:
    assert not sensitive.is_sensitive_name(name)


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """As several packages call it."""


@pytest.mark.parametrize(
    "field",
    [
        User._meta.get_field("password"),
        Session._meta.get_field("session_key"),
        AccessToken._meta.get_field("key"),
        Call._meta.get_field("made_with"),  # its column is the secret itself
        EncryptedTextField(name="notes"),
    ],
    ids=str,
)
def test_a_field_is_sensitive_by_its_name_its_type_or_what_it_refers_to(field: Any) -> None:
    assert sensitive.is_sensitive_field(field)


@pytest.mark.parametrize("model", [Session, LogEntry, User, AccessToken, Customer, Call])
def test_a_model_that_holds_secrets_is_no_part_of_a_context(model: type[models.Model]) -> None:
    problem = sensitive.problem_of_model(model, "CONTEXT_MODELS")
    assert problem is not None
    assert f'PROCTREE["CONTEXT_MODELS"] = ["ledger", "app", "{model._meta.label}"]' in problem


def test_the_fields_that_make_a_model_secret_are_named() -> None:
    problem = sensitive.problem_of_model(Customer, "CONTEXT_MODELS")
    assert "it holds secrets ('api_key'), so it must be listed by its own name" in str(problem)


@pytest.mark.parametrize(
    ("field", "is_secret"),
    [
        (models.PositiveIntegerField(name="tokens"), False),
        (models.IntegerField(name="token"), True),
        (models.CharField(name="tokens"), True),
        (models.BooleanField(name="encrypted"), False),
    ],
    ids=str,
)
def test_a_number_of_tokens_is_no_secret(field: Any, is_secret: bool) -> None:
    class Message:
        pass

    field.model, field.is_relation = Message, False
    assert sensitive.is_sensitive_field(field) is is_secret


@pytest.mark.parametrize("use", USES)
def test_by_default_the_models_of_the_projects_own_apps_are_allowed(use: sensitive.Use) -> None:
    assert sensitive.problem_of_model(Account, use) is None
    assert sensitive.problem_of_model(Organisation, use) is None
    assert sensitive.problem_of_model(Group, use) is not None
    assert sensitive.problem_of_model(OutboxRun, use) is not None


def test_by_default_triggers_may_ask_about_users_too(settings: Settings) -> None:
    assert sensitive.problem_of_model(User, "TRIGGER_MODELS") is None
    settings.PROCTREE = {"TRIGGER_MODELS": ["ledger"]}
    assert sensitive.problem_of_model(User, "TRIGGER_MODELS") is not None
    lookup = "account_manager__email__startswith"
    assert "auth.User is not allowed" in str(sensitive.problem_of_lookup(Customer, lookup))
    assert sensitive.problem_of_lookup(Customer, "account_manager__in") is None


@pytest.mark.parametrize("use", USES)
def test_what_is_listed_is_allowed_and_nothing_else(use: sensitive.Use) -> None:
    listed = ["auth", "app.organisation", "app.AccessToken", "sessions.*"]
    with override_settings(PROCTREE={use: listed}):
        for allowed in (Group, Organisation, AccessToken):
            assert sensitive.problem_of_model(allowed, use) is None
        assert "not listed" in str(sensitive.problem_of_model(Account, use))
    with override_settings(PROCTREE={use: []}):
        assert sensitive.problem_of_model(Account, use) is not None


def test_an_app_stands_for_none_of_its_models_that_hold_secrets() -> None:
    with override_settings(PROCTREE={"CONTEXT_MODELS": ["auth", "sessions.*", "admin"]}):
        for model in (User, Session, LogEntry):
            problem = sensitive.problem_of_model(model, "CONTEXT_MODELS")
            assert "must be listed by its own name" in str(problem)


def test_the_check_names_rows_that_the_settings_do_not_allow(db: None) -> None:
    tree = ProcessTree.objects.create(name="t", processes=[])
    reference = {"$model": "auth.User", "pk": 1}
    ProcessTreeSchedule.objects.create(process_tree=tree)
    trigger = Trigger.objects.create(
        name="asks", trigger_type="condition", configuration={"field": "a", "operator": "exists"}
    )
    TriggerSubscription.objects.create(process_tree=tree, trigger=trigger)
    asked = {"model": "auth.Group", "operator": "gte", "value": 1}
    # Before an upgrade all of this was allowed.
    models.QuerySet(ProcessTreeSchedule).update(context=raw_json({"x": reference}))
    models.QuerySet(TriggerSubscription).update(context=raw_json({"y": reference}))
    models.QuerySet(Trigger).update(configuration=raw_json(asked))
    found = [str(each) for each in broken_rows.findings()]
    users = ("schedule of tree 't'", "subscription of tree 't' to 'asks'", "trigger 'asks'")
    for user, use in zip(
        users, ("CONTEXT_MODELS", "CONTEXT_MODELS", "TRIGGER_MODELS"), strict=True
    ):
        assert [each for each in found if each.startswith(user) and f'PROCTREE["{use}"] =' in each]
    with override_settings(PROCTREE={"CONTEXT_MODELS": ["auth.User"], "TRIGGER_MODELS": ["auth"]}):
        assert broken_rows.findings() == []


def raw_json(value: Any) -> models.Value:
    """Write JSON past the model's field."""
    return models.Value(value, output_field=models.JSONField())


def test_a_derived_model_holds_what_its_base_does() -> None:
    class Boss(User):
        class Meta:
            proxy = True
            app_label = "app"

    try:
        assert sensitive.problem_of_model(Boss, "CONTEXT_MODELS") is not None
    finally:
        del apps.all_models["app"]["boss"]
        apps.clear_cache()


def test_a_relation_by_several_columns_is_judged_by_each() -> None:
    class Valuation(models.Model):
        owner = models.CharField(max_length=50)
        day = models.DateField()
        holding = models.ForeignObject(
            Holding, models.CASCADE, from_fields=["owner", "day"], to_fields=["owner", "day"]
        )
        tags = GenericRelation(LogEntry, content_type_field="content_type")

        class Meta:
            app_label = "app"

    try:
        assert sensitive.problem_of_lookup(Valuation, "holding__owner") is None
        assert sensitive.problem_of_model(Valuation, "CONTEXT_MODELS") is None
        assert not sensitive.is_sensitive_attribute(Valuation(), "holding")
        assert "LogEntry is not allowed" in str(sensitive.problem_of_lookup(Valuation, "tags__id"))
    finally:
        del apps.all_models["app"]["valuation"]
        apps.clear_cache()


@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        (User, "password"),
        (User, "password__startswith"),
        (User, "logentry__object_repr__startswith"),
        (User, "groups__user__password__gt"),
        (Customer, "api_key__regex"),
        (Customer, "account_manager__groups__name"),
        (Customer, "account_manager__password"),
        (Customer, "access__pk__startswith"),
        (Customer, "access"),
        (Customer, "settings__xero__client_secret__startswith"),
        (Customer, "settings__icontains"),
        (Customer, "settings__regex"),
        (Organisation, "customers__api_key__gt"),
        (Call, "made_with__gt"),
        (Call, "made_with_id__gt"),
        (Customer, "_connector"),
        (Customer, "_negated"),
    ],
)
def test_no_trigger_may_ask_for_a_secret_however_it_gets_there(
    model: type[models.Model], lookup: str
) -> None:
    assert sensitive.problem_of_lookup(model, lookup) is not None


@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        (Organisation, "name__istartswith"),
        (Organisation, "customers__name"),
        (Customer, "organisation__name__in"),
        (User, "username__regex"),
        (Customer, "account_manager__email__startswith"),
        (Customer, "account_manager"),
        (Customer, "account_manager_id__in"),
        (Customer, "account_manager__pk"),
        (Customer, "account_manager__isnull"),
        (Customer, "password_changed_at__date__gt"),
        (Customer, "settings__plan__startswith"),
        (Customer, "settings__has_key"),
        (Customer, "settings__contains"),
        (Customer, "pk__in"),
        (Organisation, "gone__whatever"),
    ],
)
def test_what_holds_no_secret_may_be_asked(model: type[models.Model], lookup: str) -> None:
    assert sensitive.problem_of_lookup(model, lookup) is None


def test_attributes_that_hold_a_rows_secrets_are_known() -> None:
    customer, token = Customer(api_key="x"), AccessToken(key="x")
    assert sensitive.is_sensitive_attribute(customer, "api_key")
    assert sensitive.is_sensitive_attribute(token, "key")
    assert sensitive.is_sensitive_attribute(token, "pk")
    assert not sensitive.is_sensitive_attribute(customer, "name")
    assert not sensitive.is_sensitive_attribute(customer, "pk")
    assert not sensitive.is_sensitive_attribute({"token": "x"}, "token")


def test_a_path_leads_to_no_secret_of_a_row_however_deep_it_lies() -> None:
    customer = Customer(api_key="x", settings={"plan": "a", "xero": {"token": "x"}})
    available = {"c": customer, "a": {"token": AccessToken(key="x", customer=customer)}}
    for path in ("c.api_key", "c.settings.xero.token", "a.token.key", "a.token.customer.api_key"):
        assert lookups.look_up(available, path) is MISSING
    assert lookups.look_up(available, "c.settings.plan") == "a"
    assert lookups.look_up({"a": {"token": "returned"}}, "a.token") == "returned"


def test_the_projects_own_apps_are_those_that_were_not_installed() -> None:
    labels = {app.label for app in project_apps.project_apps()}
    assert labels == {"ledger", "app"}


@pytest.mark.parametrize(
    ("name", "path", "own"),
    [
        ("shop", "/srv/site/shop", True),
        ("shop", "/srv/.venv/lib/python3.11/site-packages/shop", False),
        ("shop", "/usr/lib/python3/dist-packages/shop", False),
        ("shop", str(Path(pytest.__file__).parent / "shop"), False),
        ("django.contrib.auth", "/srv/vendored/django/contrib/auth", False),
        ("proctree_dagster", "/srv/site/proctree_dagster", False),
    ],
)
def test_an_app_is_the_projects_own_by_where_it_lies(name: str, path: str, own: bool) -> None:
    class Config(AppConfig):
        pass

    Config.path = path
    assert project_apps.is_project_app(Config(name, None)) is own


def test_the_check_names_what_is_neither_an_app_nor_a_model() -> None:
    listed = ["ledger", "ledger.*", "ledger.account", "auth.User", "ledger.Gone", "gone"]
    with override_settings(PROCTREE={"CONTEXT_MODELS": listed, "TRIGGER_MODELS": ["nowhere"]}):
        text = " ".join(found_by_check()["E006"])
    for entry in ("'ledger.Gone'", "'gone'", "'nowhere'"):
        assert entry in text
    assert "'auth.User'" not in text


def test_a_row_is_shown_without_its_secrets() -> None:
    token, user = AccessToken(key="sesame"), User(username="boss", password="sesame")
    call = Call(made_with=token)
    shown = sensitive.shown([token, {"a": (token, 1), token: {1}}, [call, user], 5])
    assert "sesame" not in shown
    assert shown.startswith("[<app.AccessToken>, {'a': (<app.AccessToken>, 1), ")
    assert "<User: boss>" in shown
    assert sensitive.shown(LogEntry(object_repr="sesame")) == "<admin.LogEntry>"
    assert sensitive.shown({"key": "sesame"}) == "{'key': 'sesame'}", "what was returned"


@dataclass
class Answer:
    """What a function may return."""

    token: AccessToken


class Pair(NamedTuple):
    """A tuple with names."""

    token: AccessToken
    number: int


def test_what_else_holds_a_row_with_secrets_is_shown_as_its_type() -> None:
    token = AccessToken(key="sesame")
    for value in (
        *(Answer(token), Pair(token, 1), OrderedDict(a=token), defaultdict(list, a=[token])),
        *(deque([token]), {"a": token}.values(), {token: 1}.items(), SimpleNamespace(a=token)),
        MappingProxyType({"a": token}),
    ):
        assert sensitive.shown(value) == f"<{type(value).__name__}>"
        assert "sesame" not in sensitive.shown([value, {"a": (value,)}])
    organisation = Organisation(name="Acme")
    assert sensitive.shown(Pair(organisation, 1)) == "Pair(token=<Organisation: Acme>, number=1)"  # type: ignore[arg-type]


def test_a_row_whose_text_holds_a_secret_of_its_json_is_not_shown() -> None:
    customer = Customer(name="token sesame", settings={"xero": [{"token": "sesame"}]})
    assert sensitive.shown(customer) == "<app.Customer>"
    customer.name = "Bob"
    assert sensitive.shown(customer) == "<Customer: Bob>"


def test_what_holds_itself_is_shown() -> None:
    circle: list[Any] = [AccessToken(key="sesame")]
    circle.append(circle)
    circle.append(circle)
    assert sensitive.shown(circle) == "[<app.AccessToken>, ..., ...]"


@pytest.mark.django_db
def test_the_rows_of_a_queryset_are_shown_without_their_secrets() -> None:
    organisation = Organisation.objects.create(name="Acme")
    customer = Customer.objects.create(organisation=organisation, name="Bob")
    AccessToken.objects.create(key="sesame", customer=customer)
    assert sensitive.shown(AccessToken.objects.all()) == "<QuerySet [<app.AccessToken>]>"
    assert sensitive.shown([Customer.objects.all()]) == "[<QuerySet [<Customer: Bob>]>]"


def test_a_context_is_shown_without_its_secrets() -> None:
    context = {
        "api_key": "hunter2",
        "has_token": True,
        "password": "",
        "deep": [{"accessToken": ["hunter2"], "plain": 1}],
        "session": {"$model": "sessions.Session", "pk": "hunter2"},
        "gone": {"$model": "no.Model", "pk": 1},
    }
    assert sensitive.masked(context) == {
        "api_key": "(hidden)",
        "has_token": True,
        "password": "",
        "deep": [{"accessToken": "(hidden)", "plain": 1}],
        "session": {"$model": "sessions.Session", "pk": "(hidden)"},
        "gone": {"$model": "no.Model", "pk": 1},
    }


def test_what_is_called_like_a_secret_is_hidden_in_a_tuple_too() -> None:
    assert sensitive.masked(({"token": "hunter2"}, 1)) == ({"token": "(hidden)"}, 1)
