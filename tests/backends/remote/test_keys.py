from __future__ import annotations

import pytest

from llmprog.backends.remote.keys import KeySource
from llmprog.errors import AuthenticationError
from llmprog.redaction import redact


def source(auth="bearer", required=True, variables=("KEY_A", "KEY_B")):
    return KeySource(backend="b", variables=variables, auth=auth, required=required)


@pytest.mark.parametrize(
    ("auth", "headers"),
    [
        ("bearer", {"authorization": "Bearer key-value-b"}),
        ("x-api-key", {"x-api-key": "key-value-b"}),
        ("x-goog-api-key", {"x-goog-api-key": "key-value-b"}),
        ("none", {}),
    ],
)
def test_the_first_variable_that_is_set_holds_the_key(monkeypatch, auth, headers):
    monkeypatch.setenv("KEY_A", " ")
    monkeypatch.setenv("KEY_B", "key-value-b\n")
    assert source(auth).headers() == headers
    assert redact("key-value-b") == "[redacted]"


def test_a_key_that_is_required_and_not_set_is_an_error_that_says_what_to_set():
    assert not source().is_found
    with pytest.raises(AuthenticationError, match="set KEY_A or KEY_B"):
        source().headers()


def test_a_server_of_ones_own_may_want_none():
    assert source(required=False).is_found
    assert source(required=False).headers() == {}


@pytest.mark.parametrize("value", ["two\nlines-of-key", "schlüssel-key"])
def test_a_key_no_header_may_hold_is_refused_without_being_shown(monkeypatch, value):
    monkeypatch.setenv("KEY_A", value)
    with pytest.raises(AuthenticationError, match="the key in KEY_A or KEY_B holds") as raised:
        source().headers()
    assert value not in str(raised.value)
