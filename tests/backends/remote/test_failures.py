import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog.backends.remote.failures import clean, decode_json, failure, is_error_object
from llmprog.backends.remote.wire import HttpResponse
from llmprog.errors import AuthenticationError, BackendError, QuotaError, RateLimitError, RequestRefusedError
from llmprog.redaction import register_secret


def fail(status, body=b"", **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = HttpResponse(status=status, headers=named, body=data)
    return failure(response, backend="b", key_hint="ACME_API_KEY", now=1_790_000_000.0)


def openai(message, code=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (400, openai("max_tokens is too large"), RequestRefusedError, False),
        (404, openai("no such model", "model_not_found"), RequestRefusedError, False),
        (413, b"<html><h1>413 Request Entity Too Large</h1></html>", RequestRefusedError, False),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "Input should be less than 9"}]}, RequestRefusedError, False),
        (401, openai("Incorrect API key provided", "invalid_api_key"), AuthenticationError, False),
        (403, {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}, AuthenticationError, False),
        (402, {"error": {"message": "Insufficient Balance"}}, QuotaError, False),
        (429, openai("Rate limit reached", "rate_limit_exceeded", "requests"), RateLimitError, True),
        (429, openai("You exceeded your quota", "insufficient_quota", "insufficient_quota"), QuotaError, False),
        (429, b"", RateLimitError, True),
        (403, openai("no funds", "insufficient_quota"), QuotaError, False),
        (400, openai("Your credit balance is too low"), QuotaError, False),
        (429, {"error": {"details": {"error_code": "enforced_spend_limit_reached"}}}, QuotaError, False),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, BackendError, True),
        (400, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, BackendError, True),
        (408, b"", BackendError, True),
        (409, b"", BackendError, True),
        (500, b"Internal Server Error", BackendError, True),
        (503, {"error": "server busy"}, BackendError, True),
        (200, {"error": {"code": 429, "message": "Provider returned error"}}, RateLimitError, True),
        (200, {"error": {"code": 502, "message": "upstream"}}, BackendError, True),
        (200, {"error": {"code": "invalid_prompt", "message": "no"}}, RequestRefusedError, False),
        (200, {"error": {"code": 402, "message": "Insufficient credits"}}, QuotaError, False),
    ],
)
def test_status_and_code_decide_which_error_it_is(status, body, kind, retryable):
    error = fail(status, body)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.backend == "b"


def test_gemini_tells_a_minute_from_a_day():
    def answer(quota_id):
        violation = {"quotaMetric": "requests", "quotaId": quota_id}
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"},
        ]
        return {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": details}}

    error = fail(429, [answer("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")])
    assert isinstance(error, RateLimitError)
    assert error.retry_after_s == 17.5
    assert isinstance(fail(429, answer("GenerateRequestsPerDayPerProjectPerModel-FreeTier")), QuotaError)


def test_the_header_says_how_long_to_wait():
    assert fail(429, b"", retry_after="7").retry_after_s == 7
    assert fail(503, b"", retry_after="1m").retry_after_s == 60
    assert fail(429, b"").retry_after_s is None


def test_only_a_gateway_that_gave_up_may_have_cost_something():
    statuses = (400, 401, 408, 409, 429, 500, 502, 503, 504, 524)
    assert [status for status in statuses if fail(status).possibly_billed] == [408, 504, 524]


def test_messages_say_what_to_do():
    assert str(fail(401, openai("bad key"))) == (
        "backend 'b': status 401: 'bad key'; set ACME_API_KEY to a key that may do this"
    )
    assert str(fail(404, openai("no such model"), x_request_id="req_1")) == (
        "backend 'b': status 404: 'no such model' (request id req_1); check the model's name and the base URL"
    )
    assert "its credit or quota is spent" in str(fail(402))
    assert str(fail(502, b"<html>\r\n<h1>502 Bad Gateway</h1></html>")) == "backend 'b': status 502: '502 Bad Gateway'"
    behind = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "too long"}}}
    assert "'Provider returned error: too long'" in str(fail(400, behind))


def test_what_an_endpoint_says_is_short_printable_and_without_secrets():
    secret = "sk-canary-0123456789"
    register_secret(secret)
    message = "\x1b]52;c;evil\x07 first\nsecond " + "x" * 280 + secret + "y" * 1000
    error = str(fail(400, openai(message), request_id=secret))
    assert secret[:12] not in error
    assert error.isprintable()
    assert len(error) < 420
    assert clean(secret) == "[redacted]"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b'{"a": NaN}', "JSON with NaN"),
        (b'{"a": -Infinity}', "JSON with -Infinity"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "repeated key"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', "not UTF-8"),
        (b"1" * 10_000, "digits"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(text, why):
    with pytest.raises(ValueError, match=why):
        decode_json(text)


def test_json_with_odd_characters_is_json():
    assert decode_json(rb'["\ud800", "\u0000", "\u2028"]') == ["\ud800", "\0", "\u2028"]


def test_an_error_beside_a_reply_is_the_reply_s_own_affair():
    assert is_error_object({"error": {"message": "no"}})
    assert is_error_object({"error": "no", "id": 1})
    assert not is_error_object({"error": None, "choices": []})
    assert not is_error_object({"error": {"message": "late"}, "choices": [{}]})
    assert not is_error_object(["error"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "status", "details", "metadata", "raw", "violations"]),
            inner,
        )
    ),
)


@settings(max_examples=50)
@given(st.integers(200, 599), st.binary() | _json.map(lambda value: json.dumps(value).encode()))
def test_no_body_raises(status, body):
    assert isinstance(fail(status, body), BackendError)


@pytest.mark.fault("output", "an error body of depth 10⁵", "the error its status says, at once")
@pytest.mark.parametrize("body", [b"[" * 10**5, b'{"error":' * 10**5, b"<" * 10**6, b"[" * 900 + b"]" * 900])
def test_a_hostile_error_body_costs_little(body):
    before = time.process_time()
    assert isinstance(fail(400, body), RequestRefusedError)
    assert time.process_time() - before < 5
