"""The demo user is made in the example's own database only, and only while DEBUG is on."""

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.db import connection
from pytest_django import Settings

from example import settings as examples_own
from example.demo_user import NAME, PASSWORD, make_demo_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def examples_database(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.DEBUG = True
    monkeypatch.setitem(examples_own.DATABASES, "default", connection.settings_dict)


@pytest.mark.usefixtures("examples_database")
def test_the_demo_user_is_made_once_and_its_password_is_printed() -> None:
    said = {make_demo_user(), make_demo_user()}
    assert said == {f"The admin's user is {NAME!r}, its password {PASSWORD!r}."}
    user = authenticate(username=NAME, password=PASSWORD)
    assert user is not None
    assert user.is_superuser
    assert user.is_staff


@pytest.mark.usefixtures("examples_database")
def test_a_password_that_was_changed_stays() -> None:
    get_user_model()._default_manager.create_superuser(NAME, password="my own")
    assert "the password that you gave it" in make_demo_user()
    assert authenticate(username=NAME, password=PASSWORD) is None


@pytest.mark.usefixtures("examples_database")
def test_without_debug_there_is_no_demo_user(settings: Settings) -> None:
    settings.DEBUG = False
    assert "No demo user" in make_demo_user()
    assert not get_user_model()._default_manager.exists()


def test_in_another_database_there_is_no_demo_user(settings: Settings) -> None:
    settings.DEBUG = True
    assert "No demo user" in make_demo_user()
    assert not get_user_model()._default_manager.exists()
