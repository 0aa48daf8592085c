"""What is replaced of a secret, and what is not."""

import base64
import html
import json
import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from proctree_dagster.exceptions import MaskedError, SecretError
from proctree_dagster.process import masking

VALUE = 's3cr3t/"T"ok+en=é&<x>'
MASK = "(secret XERO)"


@dataclass
class Login:
    user: str
    headers: dict[str, Any]


Pair = namedtuple("Pair", "user token")  # of the kind that has no annotations


@pytest.fixture(autouse=True)
def xero(no_secrets_yet: None) -> None:
    masking.learn("XERO", VALUE)


def in_basic_auth(user: str) -> str:
    return base64.b64encode(f"{user}:{VALUE}".encode()).decode()


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        json.dumps(VALUE),
        json.dumps({"a": VALUE}, ensure_ascii=False),
        repr(VALUE.encode()),
        html.escape(VALUE),
        quote(VALUE),
        quote(VALUE, safe=""),
        re.sub("%..", lambda match: match[0].lower(), quote(VALUE)),
        quote_plus(VALUE),
        VALUE.encode().hex(),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode(),
        in_basic_auth("a"),
        in_basic_auth("ab"),
        in_basic_auth("abc"),
    ],
)
def test_each_form_of_a_secret_is_masked(form: str) -> None:
    assert MASK in masking.text(f"before {form} after")


@pytest.mark.parametrize("said", ["", "s3cr3t", VALUE[:10], VALUE[::-1], VALUE.upper()])
def test_a_part_of_a_secret_and_what_is_made_of_it_are_not(said: str) -> None:
    assert masking.text(said) == said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (VALUE, MASK),
        ({"a": [VALUE, {"b": (f"Bearer {VALUE}",)}]}, {"a": [MASK, {"b": (f"Bearer {MASK}",)}]}),
        ({VALUE: VALUE}, {MASK: MASK}),
        ({VALUE, "x"}, {MASK, "x"}),
        (Login("a", {"token": VALUE}), Login("a", {"token": MASK})),
        (Pair("a", VALUE), Pair("a", MASK)),
        (OrderedDict(a=VALUE), OrderedDict(a=MASK)),
        ([VALUE, VALUE, f"{VALUE}{VALUE}"], [MASK, MASK, f"{MASK}{MASK}"]),
        (VALUE.encode(), b"*" * len(VALUE.encode())),
        (bytearray(VALUE.encode()), bytearray(b"*" * len(VALUE.encode()))),
    ],
)
def test_a_value_of_any_class_is_copied_without_its_secrets(value: Any, shown: Any) -> None:
    copy = masking.masked(value)
    assert copy == shown
    assert type(copy) is type(shown)


def test_what_holds_no_secret_stays_the_same_object() -> None:
    for value in ({"a": [1, 2.5, None]}, Login("a", {}), object, 5, True, None):
        assert masking.masked(value) is value


def test_numbers_are_masked_where_a_secret_is_one() -> None:
    masking.learn("PIN", "48151623")
    given = {"pin": 48151623, "other": 48151624, "large": 10**50, "said": "48151623"}
    shown = {**given, "pin": "(secret PIN)", "said": "(secret PIN)"}
    assert masking.masked(given) == shown


def test_a_secret_where_no_text_can_be_is_refused() -> None:
    masking.learn("PIN", "48151623")
    with pytest.raises(SecretError, match="holds a secret in a dict, in which it can't be masked"):
        masking.masked({"pin": Decimal("48151623")})


def test_what_cannot_be_pickled_is_masked_as_far_as_it_is_made_of_containers() -> None:
    def local() -> None: ...

    copy = masking.masked({"func": local, "token": VALUE, "more": [VALUE, {VALUE}]})
    assert copy == {"func": local, "token": MASK, "more": [MASK, {MASK}]}


def test_a_result_that_is_nested_too_deep_to_be_pickled_is_no_error() -> None:
    deep: list[Any] = ["nothing secret"]
    for _ in range(100_000):
        deep = [deep]
    masking.masked(deep)


def test_a_short_secret_is_masked_as_a_word_of_its_own() -> None:
    masking.learn("PIN", "1234")
    masking.learn("NAME", "json")
    assert masking.text("pin=1234, 12345, a1234 (1234)") == (
        "pin=(secret PIN), 12345, a1234 ((secret PIN))"
    )
    value = {"pin": "1234", "sum": "12345", "decoder": json.JSONDecoder}
    assert masking.masked(value) == {**value, "pin": "(secret PIN)"}


@pytest.mark.parametrize("value", ["", "a", "abc", "  a  "])
def test_a_secret_that_would_be_masked_all_over_is_refused(value: str) -> None:
    with pytest.raises(SecretError, match="'SHORT' has fewer than 4 characters"):
        masking.learn("SHORT", value)
    assert masking.text("a b c abc") == "a b c abc"


def test_each_line_of_a_key_is_masked_but_not_its_frame() -> None:
    masking.learn("KEY", "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ\n-----END KEY-----\n")
    assert masking.text("line 2: kqhkiG9w0BAQ") == "line 2: (secret KEY)"
    assert masking.text("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


def test_an_error_is_masked_in_place_with_those_that_it_was_raised_from() -> None:
    error = ValueError(f"401 for {VALUE}", [VALUE])
    error.__cause__ = KeyError(VALUE)
    error.__cause__.__context__ = ExceptionGroup("all", [OSError(VALUE)])
    error.add_note(f"seen {VALUE}")
    assert masking.error(error) is error
    assert error.args == (f"401 for {MASK}", [MASK])
    assert error.__notes__ == [f"seen {MASK}"]
    assert error.__cause__.args == (MASK,)
    [inner] = error.__cause__.__context__.exceptions
    assert inner.args == (MASK,)


def test_an_error_whose_text_cannot_be_changed_is_replaced() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return VALUE

    shown = masking.error(Stubborn())
    assert type(shown) is MaskedError
    assert str(shown) == f"Stubborn: {MASK}"
    assert VALUE not in str(masking.error(UnicodeDecodeError("ascii", b"\xff", 0, 1, VALUE)))


def test_a_secret_that_has_changed_is_still_masked() -> None:
    masking.learn("XERO", "the next one of it")
    assert masking.text(f"{VALUE} the next one of it") == f"{MASK} {MASK}"


def test_those_given_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "MOST", 2)
    for number in range(3):
        masking.learn("S", f"value number {number}")
    assert list(masking._masks.known) == ["value number 1", "value number 2"]
