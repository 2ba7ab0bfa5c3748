"""A canary: a key set in the environment appears in nothing that is written, whatever an endpoint does with it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from llmprog.redaction import redact, register_secret

CANARY = "sk-Canary/4711+leak=Ω?".replace("Ω", "w")


class Echo(BaseHTTPRequestHandler):
    """Answers with the key it was sent, raw, URL-encoded and in base64; every other request fails with it."""

    protocol_version = "HTTP/1.1"
    num_requests = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["authorization"].removeprefix("Bearer ")
        type(self).num_requests += 1
        leak = f"{key} {quote(key, safe='')} {base64.b64encode(key.encode()).decode()}"
        if self.path.startswith("/refuse"):
            status, body = 400, {"error": {"message": f"bad key {leak}", "code": key}}
        elif self.num_requests % 2:
            status, body = 503, {"error": {"message": f"overloaded for {leak}"}}
        else:
            message = {"role": "assistant", "content": f"Your key is {leak}\nAnswer: 4 {key}", "reasoning": leak}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            status, body = 200, {"id": key, "model": f"m {key}", "choices": [choice]}
        data = json.dumps(body).encode()
        self.send_response(status, key)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-echo", leak)
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.fault("hostile", "an endpoint that echoes the key everywhere", "blacked out in every byte written")
@pytest.mark.parametrize(
    ("path", "options", "exit_code"),
    [("/v1", ["--json"], 0), ("/v1", ["--stream"], 0), ("/refuse/v1", ["--json"], 4), ("/refuse/v1", [], 4)],
)
def test_no_key_is_written_anywhere(echo, tmp_path, path, options, exit_code):
    command = [
        str(Path(sys.executable).with_name("llmprog")),
        "--log-level",
        "debug",
        "run",
        "chain_of_thought",
        "2 + 2?",
    ]
    command += ["--backend", f"{echo}{path}#m?key_env=CANARY_KEY", "--record", str(tmp_path / "run.jsonl"), *options]
    environment = {**os.environ, "CANARY_KEY": CANARY, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False, timeout=100)
    assert done.returncode == exit_code, done.stderr.decode()
    written = done.stdout + done.stderr + b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    for form in (CANARY, quote(CANARY, safe=""), base64.b64encode(CANARY.encode()).decode()[:-4], json.dumps(CANARY)):
        assert form.encode() not in written
    assert b"[redacted]" in written


def test_a_secret_is_blacked_out_in_each_of_its_forms():
    register_secret(CANARY)
    encoded = base64.b64encode(f"user:{CANARY}".encode()).decode()
    text = redact(f"a {CANARY} b {quote(CANARY, safe='')} c {encoded}")
    assert CANARY not in text
    assert quote(CANARY, safe="") not in text
    assert encoded[12:-4] not in text
    assert text.startswith("a [redacted] b [redacted] c ")


def test_short_values_are_left_alone():
    register_secret("abc")
    assert redact("abc") == "abc"
