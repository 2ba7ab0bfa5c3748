"""Who may look: the right Host, no page of another site, the token once, and nothing but reading."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.programs import arithmetic
from llmprog.viewer.access import POLICY, RefusedError, Sessions
from llmprog.viewer.background import viewing
from llmprog.viewer.server import TOKEN_VARIABLE, ViewOptions

LLMPROG = Path(sys.executable).with_name("llmprog")
TOKEN = "a-token-of-someones-own-choice"
get, head = (partial(asked, timeout=60) for asked in (httpx.get, httpx.head))


@pytest.fixture
def kept(store):
    result = run(
        arithmetic(num_samples=2), "1 + 1", backend=ScriptedBackend(lambda *_: "Answer: 2"), seed=1, store=store
    )
    return result.run_id


@pytest.fixture
def url(store, kept):
    with viewing(store) as url:
        yield url


def base_of(url):
    return url.partition("/login")[0]


@contextmanager
def logged_in(url):
    with httpx.Client(base_url=base_of(url), timeout=60) as client:
        assert client.get(url).status_code == 303
        yield client


@pytest.fixture
def client(url):
    with logged_in(url) as client:
        yield client


# ------------------------------------------------------------------------------------------------ logging in


def test_the_token_works_once_and_becomes_a_cookie_that_scripts_do_not_see(url):
    first = get(url)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    name, _, rest = first.headers["set-cookie"].partition("=")
    assert name == f"llmprog-view-{httpx.URL(url).port}"
    value, *attributes = rest.split("; ")
    assert len(value) >= 43
    assert value not in url
    assert sorted(a.lower() for a in attributes) == ["httponly", "path=/", "samesite=strict"]
    again = get(url)
    assert again.status_code == 403
    assert "works once" in again.text
    assert "set-cookie" not in again.headers
    assert get(base_of(url) + "/", cookies={name: value}).status_code == 200
    at_home = get(url, cookies={name: value})  # the same browser may open it again
    assert (at_home.status_code, at_home.headers["location"]) == (303, "/")
    assert "set-cookie" not in at_home.headers


@pytest.mark.parametrize("other", ['prefs={{"x": 1}}', "a=b c", "flag", "theme[a]=1", "a@b=1", '"', "\xff=\xff"])
def test_cookies_of_other_servers_on_this_machine_do_not_lock_out(url, other):
    name, _, rest = get(url).headers["set-cookie"].partition("=")
    value = rest.partition(";")[0]
    cookies = f"{other.format()}; {name}={value}".encode("latin-1")
    assert get(base_of(url) + "/", headers=[(b"cookie", cookies)]).status_code == 200


def test_behind_https_the_cookie_is_sent_over_https_only(url):
    assert "; Secure" in get(url, headers={"x-forwarded-proto": "https"}).headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "wrong", "é", "%00"])
def test_a_wrong_token_is_refused_and_spends_nothing(url, token):
    refused = get(f"{base_of(url)}/login?token={token}")
    assert refused.status_code == 403
    assert "open the address that `llmprog view` has printed" in refused.text
    assert get(url).status_code == 303


def test_looking_ahead_spends_no_token(url):
    assert head(url).status_code == 403
    assert get(url, headers={"sec-purpose": "prefetch;prerender"}).status_code == 403
    assert get(url).status_code == 303


@pytest.mark.parametrize("cookie", [None, "llmprog-view=x", "{name}=", "{name}=wrong", '{name}="', "{name}=\xff; a"])
def test_without_a_session_nothing_is_shown(url, kept, cookie):
    name = f"llmprog-view-{httpx.URL(url).port}"
    headers = [] if cookie is None else [(b"cookie", cookie.format(name=name).encode("latin-1"))]
    for path in ("/", "/page.js", "/api/runs", f"/api/runs/{kept}/feed", f"/api/runs/{kept}/calls/1", "/nothing"):
        answer = get(base_of(url) + path, headers=headers)
        assert answer.status_code == 401
        assert "not logged in" in answer.text


def test_a_token_of_ones_own_works_again_and_is_not_printed(store):
    with viewing(store, ViewOptions(token=TOKEN)) as url:
        assert url.endswith("/login?token=")
        for _ in range(2):
            assert get(url + TOKEN).status_code == 303


def test_many_logins_do_not_fill_the_memory():
    sessions = Sessions(token=TOKEN, is_spent_by_use=False)
    begun = [sessions.begin(TOKEN) for _ in range(200)]
    assert [sessions.knows(session) for session in begun] == [False] * 136 + [True] * 64


def test_a_run_that_was_named_is_where_the_login_leads(store, kept):
    with viewing(store, ViewOptions(run=kept)) as url:
        assert get(url).headers["location"] == f"/#/run/{kept}"


# ------------------------------------------------------------------------------------------------ who may ask


@pytest.mark.fault("Hostile", "a page that points a name of its own at the viewer (DNS rebinding)", "refused")
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "", "[::ffff:7f00:1]"]
)
def test_only_names_of_this_machine_are_answered(client, host):
    answer = client.get("/api/runs", headers={"host": host})
    assert answer.status_code == 403
    assert "--allow-host" in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80", "localhost."])
def test_every_name_of_this_machine_is_answered(client, host):
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.fault("Hostile", "a page of another site asks the viewer", "refused")
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_pages_of_other_sites_are_refused(client, url, headers):
    answer = client.get("/api/runs", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert get(f"{base_of(url)}/login", headers=headers).status_code == 403


def test_a_login_that_another_site_leads_to_is_refused_before_it_spends_the_token(url):
    assert get(url, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert get(url, headers={"sec-fetch-site": "none"}).status_code == 303


def test_the_viewers_own_page_is_answered(client, url):
    own = {"origin": base_of(url), "sec-fetch-site": "same-origin"}
    assert client.get("/api/runs", headers=own).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_there_is_nothing_but_reading(client, kept, method):
    for path in ("/api/runs", f"/api/runs/{kept}", "/login"):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"


def test_every_response_keeps_the_browser_to_the_viewers_own(client, url, kept):
    for path in ("/", "/page.js", "/style.css", "/api/runs", f"/api/runs/{kept}/feed", "/nothing", "/api/runs/x/feed"):
        for answer in (client.get(path), client.head(path), client.post(path), get(base_of(url) + path)):
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in answer.headers
            assert "server" not in answer.headers
    for rule in ("default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert rule in POLICY
    assert "unsafe" not in POLICY


# ------------------------------------------------------------------------------------------------ other machines


def test_other_machines_are_let_in_by_two_decisions_only():
    with pytest.raises(OptionError, match="--allow-remote"):
        ViewOptions(host="0.0.0.0", token=TOKEN)  # noqa: S104 - nothing listens
    with pytest.raises(OptionError, match=f"takes a token.*{TOKEN_VARIABLE}"):
        ViewOptions(host="0.0.0.0", allow_remote=True)  # noqa: S104 - the same
    with pytest.raises(OptionError, match="has no effect"):
        ViewOptions(allow_remote=True)
    with pytest.raises(OptionError, match="port=70000"):
        ViewOptions(port=70000)


def test_where_other_machines_come_every_address_is_answered_but_no_other_name():
    options = ViewOptions(host="0.0.0.0", allow_remote=True, token=TOKEN, allow_hosts=("Box.example",))  # noqa: S104
    access = options.access(80)
    for host in ("192.168.1.7:80", "[fe80::1]:80", "box.example", "127.0.0.1", "0.0.0.0"):  # noqa: S104
        access.check("GET", "/login", Headers({"host": host}))
    for host in ("evil.example", "192.168.1.7.evil.example", ""):
        with pytest.raises(RefusedError, match="--allow-host"):
            access.check("GET", "/login", Headers({"host": host}))
    for host in ("192.168.1.7:80", "box.example"):
        with pytest.raises(RefusedError, match="--allow-host"):
            ViewOptions().access(80).check("GET", "/login", Headers({"host": host}))


# ------------------------------------------------------------------------------------------------ only read


def test_looking_leaves_the_files_as_they_were(store, client, kept):
    def content():
        return {path.name: path.read_bytes() for path in Path(store.directory).iterdir()}

    before = content()
    assert client.get(f"/api/runs/{kept}/feed").status_code == 200
    assert client.get(f"/api/runs/{kept}/calls/1").status_code == 200
    assert client.get("/api/runs").json()["total"] == 1
    assert content() == before


# ------------------------------------------------------------------------------------------------ the command


@contextmanager
def command(*options, **environment):
    """The process of ``llmprog view`` and what it printed first."""
    process = subprocess.Popen(
        [str(LLMPROG), "view", "--no-open", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_the_command_prints_an_address_that_lets_one_in_and_ends_at_once(store, kept):
    with command(kept[:8], "--store", str(store.directory)) as (process, said):
        url = re.search(r"http://127\.0\.0\.1:\d+/login\?token=\S+", said)[0]
        with logged_in(url) as client, client.stream("GET", f"/api/runs/{kept}/feed") as feed:
            assert feed.status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(100) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nope"], "there is no such run"),
        (["--host", "0.0.0.0"], "--allow-remote"),  # noqa: S104 - refused
        (["--token-file", "absent"], "no token can be read"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(store, kept, options, said):
    with command(*options, "--store", str(store.directory)) as (process, printed):
        assert process.wait(100) == 2
        assert printed == ""
        lines = process.stderr.read().splitlines()
        assert len(lines) == 1
        assert said in lines[0]


def test_without_its_packages_the_command_says_which_extra_has_them():
    code = "import sys; sys.modules['starlette'] = None; from llmprog.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "view"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 4
    assert 'pip install "llmprog[viewer]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(store):
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        command("--port", str(taken.getsockname()[1]), "--store", str(store.directory)) as (process, _),
    ):
        assert process.wait(100) == 2
        assert "choose another --port" in process.stderr.read()
