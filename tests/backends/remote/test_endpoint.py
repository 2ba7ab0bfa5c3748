import asyncio
import json
import random

import pytest
from structlog.testing import capture_logs

from llmprog.backends.remote.endpoint import Endpoint, EndpointOptions
from llmprog.backends.remote.transport import Timeouts, Transport
from llmprog.backends.remote.wire import HttpRequest, Progress
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    BadResponseError,
    ConnectionFailedError,
    EndpointDownError,
    OptionError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    TruncatedStreamError,
)

REQUEST = HttpRequest(path="/chat/completions", body={"model": "m"})
OK = {"choices": []}
KEY = "sk-canary-endpoint-0123456789"


class Time:
    """A clock that jumps over every sleep."""

    def __init__(self):
        self.now = 5000.0
        self.slept = []

    def clock(self):
        return self.now

    def wall_clock(self):
        return 1_790_000_000.0 + self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
async def connect(time):
    """``connect(url, **options)`` opens an endpoint whose sleeps take no time."""
    endpoints = []

    def open_endpoint(url, auth=None, **options):
        options = EndpointOptions(**options)
        endpoint = Endpoint(
            backend="b",
            base_url=url + "/v1",
            auth=auth if auth is not None else {"authorization": f"Bearer {KEY}"},
            key_hint="ACME_API_KEY",
            options=options,
            transport=Transport(
                backend="b",
                max_connections=options.max_concurrency,
                timeouts=Timeouts(connect_s=60, first_byte_s=60, idle_s=60, total_s=120),
            ),
            clock=time.clock,
            wall_clock=time.wall_clock,
            sleep=time.sleep,
            rng=random.Random(0),
        )
        endpoints.append(endpoint)
        return endpoint

    yield open_endpoint
    for endpoint in endpoints:
        assert (endpoint.stats().in_flight, endpoint.stats().waiting) == (0, 0)
        await endpoint.aclose()
        await endpoint.aclose()


def send(endpoint, request=REQUEST, group=0, check=lambda body: body, **kwargs):
    return endpoint.send(request, group=group, estimated_tokens=10, check=check, **kwargs)


def answers(*replies):
    """A handler that gives one reply after the other, and the last one for ever."""
    left = list(replies)

    async def handler(request, writer):
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return handler


async def test_a_call_sends_the_body_the_key_and_the_protocols_headers(serve, wire, connect):
    server = await serve(wire.http(200, {"choices": [1]}))
    endpoint = connect(server.url)
    request = HttpRequest(path="/x?a=1", body={"text": "é\ud800"}, headers={"version": "2023"})
    assert await send(endpoint, request, check=lambda body: body["choices"]) == [1]
    (received,) = server.requests
    assert (received.method, received.path) == ("POST", "/v1/x?a=1")
    assert received.json == {"text": "é\ud800"}
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["version"] == "2023"
    assert received.headers["content-type"] == "application/json"
    assert (endpoint.stats().calls, endpoint.stats().attempts, endpoint.stats().successes) == (1, 1, 1)


async def test_the_key_is_read_for_every_attempt(serve, wire, connect):
    keys = iter(["first", "second"])
    server = await serve(answers(wire.http(500), wire.http(200, OK)))
    endpoint = connect(server.url, auth=lambda: {"x-api-key": next(keys)})
    assert await send(endpoint) == OK
    assert [request.headers["x-api-key"] for request in server.requests] == ["first", "second"]


async def test_without_a_key_nothing_is_sent(serve, wire, connect):
    def auth():
        raise AuthenticationError("no key is set; set ACME_API_KEY", backend="b")

    server = await serve(wire.http(200, OK))
    endpoint = connect(server.url, auth=auth)
    with pytest.raises(AuthenticationError, match="ACME_API_KEY"):
        await send(endpoint)
    assert server.requests == []
    assert endpoint.stats().attempts == 0


@pytest.mark.fault("provider", "408, 409, 429, 5xx, then a reply", "the reply, after retries with full jitter")
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_tried_again(serve, wire, connect, time, status):
    server = await serve(answers(wire.http(status), wire.http(status), wire.http(200, OK)))
    endpoint = connect(server.url)
    assert await send(endpoint) == OK
    assert (endpoint.stats().attempts, endpoint.stats().retries) == (3, 2)
    first, second = time.slept
    assert 0 <= first <= 0.5
    assert 0 <= second <= 1.0


@pytest.mark.fault("provider", "400, 401, 403, 404, 413, 422", "one attempt; the error says what to do")
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefusedError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, RequestRefusedError),
        (413, RequestRefusedError),
        (422, RequestRefusedError),
    ],
)
async def test_what_will_not_pass_is_sent_once(serve, wire, connect, status, kind):
    server = await serve(wire.http(status, {"error": {"message": f"no, {KEY}"}}))
    endpoint = connect(server.url)
    with pytest.raises(kind, match=f"status {status}") as info:
        await send(endpoint)
    assert info.value.status == status
    assert len(server.requests) == 1


@pytest.mark.fault("provider", "500 for ever", "6 attempts, then the error")
async def test_attempts_are_bounded_and_the_error_says_how_many(serve, wire, connect, time):
    server = await serve(wire.http(500, b"boom"))
    endpoint = connect(server.url)
    with pytest.raises(BackendError, match=r"status 500: 'boom' \(6 attempts in \d+\.\d s; max_attempts=6\)"):
        await send(endpoint)
    assert len(server.requests) == 6
    assert all(wait <= 0.5 * 2**i for i, wait in enumerate(time.slept))


async def test_no_attempt_begins_after_the_deadline(serve, wire, connect):
    server = await serve(wire.http(429, retry_after="100"))
    endpoint = connect(server.url, deadline_s=250)
    with pytest.raises(RateLimitError, match=r"3 attempts in 200.0 s; the next would be after deadline_s=250"):
        await send(endpoint)
    assert len(server.requests) == 3


async def test_an_attempt_ends_with_the_deadline(serve, connect):
    async def silent(request, writer):
        await asyncio.sleep(60)

    server = await serve(silent)
    endpoint = connect(server.url, deadline_s=0.1, max_attempts=1)
    with pytest.raises(ConnectionFailedError, match=r"deadline_s=0\.1") as info:
        await send(endpoint)
    assert info.value.possibly_billed


async def test_retry_after_holds_back_all_calls_without_holding_slots(serve, wire, connect, time):
    server = await serve(answers(wire.http(429, retry_after="30"), wire.http(200, OK)))
    endpoint = connect(server.url, start_concurrency=1, max_concurrency=1)
    began = time.now
    assert await asyncio.gather(*(send(endpoint) for _ in range(5))) == [OK] * 5
    assert len(server.requests) == 6
    assert time.now - began >= 30
    assert endpoint.stats().rate_limits == 1


@pytest.mark.fault("provider", "Retry-After: 600", "EndpointDownError until then; nothing is sent")
async def test_a_longer_wait_parks_the_endpoint(serve, wire, connect, time):
    server = await serve(answers(wire.http(429, retry_after="600"), wire.http(200, OK)))
    endpoint = connect(server.url)
    with pytest.raises(EndpointDownError, match=r"left alone for 600 s.*until 2026-09-21 15:46:40 UTC") as info:
        await send(endpoint)
    assert isinstance(info.value.__cause__, RateLimitError)
    assert info.value.retry_after_s == 600
    with pytest.raises(EndpointDownError):
        await send(endpoint)
    assert len(server.requests) == 1
    assert endpoint.stats().blocked_s == 600
    time.now += 600
    assert await send(endpoint) == OK


@pytest.mark.fault("provider", "402; 429 with a spent quota", "QuotaError; not called again")
@pytest.mark.parametrize(
    "answer",
    [
        (402, {"error": {"message": "Insufficient Balance"}}),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    ],
)
async def test_a_spent_quota_stops_the_endpoint(serve, wire, connect, answer):
    server = await serve(wire.http(*answer))
    endpoint = connect(server.url, start_concurrency=1, max_concurrency=1)
    results = await asyncio.gather(*(send(endpoint) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {QuotaError}
    assert len(server.requests) == 1
    assert "quota is spent" in endpoint.stats().stopped


@pytest.mark.fault("provider", "a storm of 1,000 429s", "at most 1,200 requests; concurrency falls to 1")
async def test_a_storm_of_rate_limits_ends(serve, wire, connect):
    server = await serve(wire.http(429))
    endpoint = connect(server.url)
    results = await asyncio.gather(*(send(endpoint) for _ in range(1000)), return_exceptions=True)
    assert {type(result) for result in results} == {RateLimitError}
    assert len(server.requests) <= 1000 + 100 + 100  # a tenth of the calls, and the floor
    assert endpoint.stats().concurrency == 1


async def test_a_storm_of_rate_limits_that_ask_for_patience_ends(serve, wire, connect, time):
    server = await serve(wire.http(429, retry_after="20"))
    endpoint = connect(server.url)
    began = time.now
    results = await asyncio.gather(*(send(endpoint) for _ in range(1000)), return_exceptions=True)
    assert {type(result) for result in results} <= {RateLimitError, EndpointDownError}
    assert len(server.requests) < 1200
    assert time.now - began < 100_000


async def test_an_endpoint_that_only_limits_is_left_alone_in_the_end(serve, wire, connect, time):
    server = await serve(wire.http(429, retry_after="100"))
    endpoint = connect(server.url, deadline_s=350, max_concurrency=1, start_concurrency=1)
    results = await asyncio.gather(*(send(endpoint) for _ in range(50)), return_exceptions=True)
    assert EndpointDownError in {type(result) for result in results}
    assert len(server.requests) < 20


@pytest.mark.fault("provider", "one request that always fails", "RequestRefusedError after 3 attempts")
async def test_one_request_that_always_fails_is_poison(serve, wire, connect):
    async def handler(request, writer):
        poison = request.json["model"] == "poison"
        writer.write(wire.http(500, {"error": {"message": f"boom req-{random.random()}"}}) if poison else ok)

    ok = wire.http(200, OK)
    server = await serve(handler)
    endpoint = connect(server.url)
    done = asyncio.Event()

    async def others():
        while not done.is_set():
            await send(endpoint)

    task = asyncio.create_task(others())
    with pytest.raises(RequestRefusedError, match=r"3 attempts .* other calls succeeded meanwhile") as info:
        await send(endpoint, HttpRequest(path="/x", body={"model": "poison"}))
    assert info.value.status == 500
    assert not info.value.retryable
    done.set()
    await task


@pytest.mark.fault("provider", "503 for ever, 200 calls", "circuit breaker: at most 40 requests")
async def test_a_dead_endpoint_is_left_alone(serve, wire, connect, time):
    server = await serve(wire.http(503, b"down"))
    endpoint = connect(server.url)
    results = await asyncio.gather(*(send(endpoint) for _ in range(200)), return_exceptions=True)
    assert EndpointDownError in {type(result) for result in results}
    assert len(server.requests) <= 40
    with pytest.raises((EndpointDownError, BackendError)):
        await send(endpoint)
    assert time.now - 5000 < 600


@pytest.mark.fault("provider", "503 for 10 s, 200 calls", "all answered after the pause")
async def test_a_dead_endpoint_that_recovers_serves_those_who_wait(serve, wire, connect, time):
    async def handler(request, writer):
        writer.write(wire.http(503) if time.now < 5010 else wire.http(200, OK))

    server = await serve(handler)
    endpoint = connect(server.url)
    results = await asyncio.gather(*(send(endpoint) for _ in range(200)), return_exceptions=True)
    assert results.count(OK) == 200
    assert server.requests


async def test_a_refused_connection_is_tried_again_and_costs_nothing(serve, wire, connect):
    server = await serve(wire.http(200, OK))
    await server.stop()
    endpoint = connect(server.url)
    with pytest.raises(ConnectionFailedError, match="6 attempts") as info:
        await send(endpoint)
    assert not info.value.possibly_billed
    assert endpoint.stats().possibly_billed == 0


@pytest.mark.fault("network", "200 with HTML, nothing, null, NaN", "BadResponseError, after retries")
@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b"<html><b>Welcome</b></html>", "text/html", "Welcome"),
        (b"", "application/json", "nothing"),
        (b"null", "application/json", "null"),
        (b'{"a": NaN}', "application/json", "NaN"),
        (b"data: {}\n\n", "text/event-stream", "text/event-stream"),
    ],
)
async def test_a_success_that_is_no_reply_is_tried_again(serve, wire, connect, body, content_type, why):
    server = await serve(wire.http(200, body, content_type))
    endpoint = connect(server.url, max_attempts=2)
    with pytest.raises(BadResponseError, match=why) as info:
        await send(endpoint)
    assert info.value.possibly_billed
    assert (endpoint.stats().attempts, endpoint.stats().possibly_billed) == (2, 2)


@pytest.mark.fault("provider", "an error object in a 200", "the error its code says")
async def test_an_error_inside_a_success_is_an_error(serve, wire, connect):
    server = await serve(answers(wire.http(200, {"error": {"code": 429, "message": "slow down"}}), wire.http(200, OK)))
    endpoint = connect(server.url)
    assert await send(endpoint) == OK
    assert endpoint.stats().rate_limits == 1


async def test_a_check_decides_itself_whether_its_error_may_pass(serve, wire, connect):
    server = await serve(wire.http(200, OK))
    endpoint = connect(server.url)

    def check(body):
        retryable = len(server.requests) < 3
        raise TruncatedStreamError("cut", backend="b", retryable=retryable, possibly_billed=True)

    with pytest.raises(TruncatedStreamError, match="cut") as info:
        await send(endpoint, check=check)
    assert info.value.possibly_billed
    assert len(server.requests) == 3


async def test_a_stream_begins_anew_with_every_attempt(serve, wire, connect):
    whole = wire.STREAM_HEAD + wire.chunk("data: one\n\n") + wire.chunk("")

    async def handler(request, writer):
        if len(server.requests) == 1:
            writer.write(wire.STREAM_HEAD + wire.chunk("data: on"))
            await writer.drain()
            writer.close()
        else:
            writer.write(whole)

    server = await serve(handler)
    endpoint = connect(server.url)
    read = []

    def begin():
        read.clear()

        def on_chunk(piece):
            read.append(piece)
            return Progress.EVENT

        return on_chunk

    def check(body):
        assert body is None
        return b"".join(read)

    request = HttpRequest(path="/x", body={}, stream=True)
    assert await send(endpoint, request, check=check, on_chunk_factory=begin) == b"data: one\n\n"
    assert server.requests[0].headers["accept"] == "text/event-stream"
    assert endpoint.stats().attempts == 2


async def test_an_endpoint_that_does_not_stream_is_read_all_the_same(serve, wire, connect):
    server = await serve(wire.http(200, OK))
    assert await send(connect(server.url), on_chunk_factory=lambda: lambda piece: Progress.NOTHING) == OK


@pytest.mark.fault("provider", "every fourth attempt fails", "retries end at a tenth of the calls")
async def test_retries_of_many_calls_are_bounded_by_a_share(serve, wire, connect):
    async def handler(request, writer):
        fails = len(server.requests) % 4 == 0
        writer.write(wire.http(500, b"boom") if fails else wire.http(200, OK))

    server = await serve(handler)
    endpoint = connect(server.url, max_concurrency=10)
    results = await asyncio.gather(*(send(endpoint) for _ in range(300)), return_exceptions=True)
    assert len(server.requests) <= 300 + 10 + 30
    assert any("too many calls" in str(result) for result in results)


async def test_limits_per_minute_hold_for_attempts_and_true_token_counts(serve, wire, connect, time):
    server = await serve(wire.http(200, OK))
    endpoint = connect(server.url, requests_per_minute=30)
    began = time.now
    await asyncio.gather(*(send(endpoint) for _ in range(60)))
    assert time.now - began == pytest.approx(60, abs=0.5)
    endpoint = connect(server.url, tokens_per_minute=100, requests_per_minute=1000)
    began = time.now
    await asyncio.gather(*(send(endpoint, count_tokens=lambda body: 1) for _ in range(60)))
    assert time.now - began < 30  # 60 estimates of 10 tokens are six minutes
    began = time.now
    await asyncio.gather(*(send(endpoint) for _ in range(30)))
    assert time.now - began > 100


async def test_cancelled_calls_leave_nothing_behind(serve, wire, connect):
    async def slow(request, writer):
        await asyncio.sleep(random.random() / 50)
        writer.write(wire.http(200, OK))

    server = await serve(slow)
    endpoint = connect(server.url, start_concurrency=4, max_concurrency=8, tokens_per_minute=1e9)
    tasks = [asyncio.create_task(send(endpoint, group=i % 3)) for i in range(200)]
    await asyncio.sleep(0.05)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results[1::2] if result != OK] == []
    assert (endpoint.stats().in_flight, endpoint.stats().waiting) == (0, 0)


async def test_neither_logs_nor_errors_hold_the_key_or_the_prompt(serve, wire, connect):
    server = await serve(answers(wire.http(500, b"boom " + KEY.encode()), wire.http(402, KEY.encode())))
    endpoint = connect(server.url)
    from llmprog.redaction import register_secret

    register_secret(KEY)
    with capture_logs() as logs, pytest.raises(QuotaError) as info:
        await send(endpoint, HttpRequest(path="/x", body={"prompt": "the prompt"}))
    assert {line["event"] for line in logs} == {
        "model call is tried again",
        "quota is spent: endpoint is not called again",
    }
    written = json.dumps(logs) + str(info.value) + str(info.value.__context__) + endpoint.stats().stopped
    assert KEY not in written
    assert "the prompt" not in written


async def test_a_body_that_is_no_json_is_refused_before_it_is_sent(serve, wire, connect):
    server = await serve(wire.http(200, OK))
    with pytest.raises(OptionError, match="cannot be sent as JSON"):
        await send(connect(server.url), HttpRequest(path="/x", body={"temperature": float("nan")}))
    assert server.requests == []


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"start_concurrency": 0},
        {"start_concurrency": 20, "max_concurrency": 10},
        {"requests_per_minute": 0},
        {"tokens_per_minute": float("nan")},
        {"max_attempts": 0},
        {"deadline_s": -1},
        {"deadline_s": "9"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        EndpointOptions(**options)
