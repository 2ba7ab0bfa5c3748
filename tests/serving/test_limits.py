"""Who is let in, what a body may be, and how many calls there may be."""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import httpx
import pytest

from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.serving.background import serving
from llmprog.serving.reading import MAX_BODY_BYTES
from llmprog.serving.server import TOKEN_VARIABLE, ServerOptions
from llmprog.web.sockets import listen
from llmprog.web.tokens import read_token

TOKEN = "a-token-of-some-length"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def scripted(**options):
    return {"m": ScriptedBackend(lambda prompt, sample: f"{prompt}!", **options)}


@pytest.fixture(scope="module")
def guarded():
    allowed = {"allow_origins": ("https://notes.example",), "allow_hosts": ("proxy.example",)}
    options = ServerOptions(port=0, token=TOKEN, **allowed)
    with serving(scripted(), {}, options=options) as base, httpx.Client(base_url=base, timeout=60) as client:
        yield client


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_without_the_token_nothing_but_health_is_answered(guarded):
    for headers in ({}, bearer("another-token-of-length"), bearer(TOKEN[:-1]), {"authorization": f"Basic {TOKEN}"}):
        refused = guarded.post("/chat/completions", json=CHAT, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert guarded.get("/models", headers=headers).status_code == 401
    assert guarded.get(str(guarded.base_url.join("/health"))).json()["status"] == "ok"
    reply = guarded.post("/chat/completions", json=CHAT, headers=bearer(TOKEN))
    assert reply.json()["choices"][0]["message"]["content"] == "Hello!"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST.:80", 200),
        ("[::1]:8000", 200),
        ("proxy.example:443", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(guarded, host, status):
    assert guarded.get("/models", headers={"host": host, **bearer(TOKEN)}).status_code == status


def test_pages_of_other_sites_may_not_call_unless_they_are_allowed(guarded):
    evil = {"origin": "https://evil.example", **bearer(TOKEN)}
    refused = guarded.post("/chat/completions", json=CHAT, headers=evil)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    asked = {"origin": "https://notes.example", "access-control-request-method": "POST"}
    allowed = guarded.options("/chat/completions", headers=asked)
    assert allowed.status_code == 204
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    reply = guarded.post("/chat/completions", json=CHAT, headers={"origin": "https://notes.example", **bearer(TOKEN)})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://notes.example"
    assert guarded.options("/chat/completions", headers={**asked, "origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "allowed is a JSON object"),
        (b'{"model": "m", "model": "n"}', 400, "names a key twice"),
        (b'{"model": "m", "temperature": NaN}', 400, "NaN is no JSON number"),
        (b'{"model": "\xff"}', 400, "not UTF-8"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "nests deeper"),
        (b'{"model": "m", "messages": ' + b"[" * 70 + b"]" * 70 + b"}", 400, "nests deeper than 64"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "the field 'model' is missing"),
        (b" " * (MAX_BODY_BYTES + 1), 413, "more than"),
    ],
)
def test_a_body_that_is_no_request_is_refused(guarded, data, status, says):
    headers = {"content-type": "application/json", **bearer(TOKEN)}
    refused = guarded.post("/chat/completions", content=data, headers=headers)
    assert (refused.status_code, refused.json()["error"]["type"]) == (status, "invalid_request_error")
    assert says in refused.json()["error"]["message"]


def test_a_body_without_a_length_is_bounded_too(guarded):
    def endless():
        for _ in range(MAX_BODY_BYTES // 65536 + 2):
            yield b" " * 65536

    refused = guarded.post(
        "/chat/completions", content=endless(), headers={"content-type": "application/json", **bearer(TOKEN)}
    )
    assert refused.status_code == 413


def test_what_a_browser_sends_unasked_is_no_request(guarded):
    headers = {"content-type": "text/plain", **bearer(TOKEN)}
    refused = guarded.post("/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert refused.status_code == 415


def test_other_paths_and_methods_have_openais_error_too(guarded):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/chat/completions", 405), ("POST", "/models", 405)):
        refused = guarded.request(method, path, headers=bearer(TOKEN))
        assert refused.status_code == status
        assert refused.json()["error"]["message"]


def test_calls_beyond_the_limit_are_told_to_come_again():
    options = ServerOptions(port=0, max_concurrency=2)
    go = threading.Event()

    class Waiting(ScriptedBackend):
        async def generate(self, request):
            await asyncio.to_thread(go.wait, 100)
            return await super().generate(request)

    async def together(base):
        async with httpx.AsyncClient(base_url=base, timeout=100) as client:
            asked = [asyncio.create_task(client.post("/chat/completions", json=CHAT)) for _ in range(6)]
            first = asyncio.as_completed(asked)
            for _ in range(4):
                assert (await next(first)).status_code == 429
            go.set()
            return await asyncio.gather(*asked)

    with serving({"m": Waiting(lambda *_: "Hello!")}, {}, options=options) as base:
        replies = asyncio.run(together(base))
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429, 429]
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_calls"
        assert httpx.post(f"{base}/chat/completions", json=CHAT, timeout=60).status_code == 200


class Broken:
    id = "broken"

    @property
    def capabilities(self):
        return 1 / 0

    async def aclose(self):
        pass


def test_an_unknown_error_tells_the_client_nothing_of_the_inside_and_the_log_where_it_was(caplog):
    with serving({"m": Broken()}, {}) as base:
        failed = httpx.post(f"{base}/completions", json={"model": "m", "prompt": "Hush"}, timeout=60)
        listed = httpx.get(f"{base}/models/m", timeout=60)
    for reply in (failed, listed):
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
        assert "division" not in reply.text
    said = next(record.getMessage() for record in caplog.records if record.name == "llmprog.serving")
    assert "ZeroDivisionError" in said
    assert "test_limits.py" in said
    assert "Hush" not in said


def test_hosts_that_others_reach_take_a_token():
    with pytest.raises(OptionError, match="takes a token"):
        ServerOptions(host="0.0.0.0")  # noqa: S104 - it is refused
    assert ServerOptions(host="0.0.0.0", token=TOKEN).access.any_host  # noqa: S104 - nothing listens
    behind_a_proxy = ServerOptions(host="0.0.0.0", token=TOKEN, allow_hosts=("Proxy.example",))  # noqa: S104 - the same
    assert not behind_a_proxy.access.any_host
    assert behind_a_proxy.access.hosts == {"proxy.example"}
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert not ServerOptions(host=host).access.any_host


@pytest.mark.parametrize(
    "options",
    [{"port": 70000}, {"grace_s": -1.0}, {"max_concurrency": 0}, {"allow_origins": ("notes.example",)}],
    ids=lambda o: next(iter(o)),
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match="allowed"):
        ServerOptions(**options)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None, TOKEN_VARIABLE) is None
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token(None, TOKEN_VARIABLE) == TOKEN
    file = tmp_path / "token"
    for text in ("short", "with a space in the middle", "ü" * 20):
        file.write_text(text)
        with pytest.raises(OptionError, match="or more"):
            read_token(file, TOKEN_VARIABLE)
    with pytest.raises(OptionError, match="no token can be read"):
        read_token(tmp_path / "absent", TOKEN_VARIABLE)


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OptionError, match="cannot listen on"):
            listen("127.0.0.1", taken.getsockname()[1])


def test_a_server_in_a_thread_leaves_no_thread():
    before = threading.active_count()
    with serving(scripted(), {}) as base:
        assert httpx.get(f"{base}/models", timeout=60).status_code == 200
    assert threading.active_count() <= before
