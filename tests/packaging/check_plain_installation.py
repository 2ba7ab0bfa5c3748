"""What `pip install llmprog` gives, without any extra: run by `nox -s minimal` with the Python it was installed for.

The command line starts, a program runs on a remote backend (a server on loopback), a missing extra is named with the
command that installs it, no torch was pulled, and what was installed is listed by size and stays below its limit.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

# What the packages' files come to, and with the bytecode that pip compiles from them when it installs.
LIMIT_MB, LIMIT_WITH_BYTECODE_MB = 40, 62
LIMIT_START_S = 0.3
LLMPROG = Path(sys.executable).with_name("llmprog")
COMES_WITH_PYTHON = {"pip", "setuptools"}


def sizes():
    """Name, megabytes of files, megabytes of bytecode, of each distribution here, the largest first."""
    found = []
    for distribution in metadata.distributions():
        if distribution.name in COMES_WITH_PYTHON:
            continue
        paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
        lengths = [(path.suffix == ".pyc", path.stat().st_size) for path in paths if path.is_file()]
        of_files, of_bytecode = (sum(size for is_code, size in lengths if is_code is kind) for kind in (False, True))
        found.append((distribution.name, of_files / 1e6, of_bytecode / 1e6))
    return sorted(found, key=lambda row: -row[1] - row[2])


def llmprog(*arguments, code=0):
    done = subprocess.run([LLMPROG, *arguments], capture_output=True, text=True, check=False, timeout=60)
    require(done.returncode == code, f"llmprog {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout + done.stderr


def require(holds, message):
    if not holds:
        sys.exit(f"FAILED: {message}")


class Answers(http.server.BaseHTTPRequestHandler):
    """A server of chat completions that says 42 to everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        body = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):  # noqa: A002 - the base class's name
        """Nothing: what the client says is enough."""


@contextlib.contextmanager
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/v1#m"
        listening.shutdown()


def check_the_command_line():
    require("map" in llmprog("--help"), "llmprog --help does not list its commands")
    require("game24" in llmprog("list"), "llmprog list does not list the programs")
    with server() as address:
        said = llmprog("run", "io", "what is 6 times 7?", "--backend", address, "--quiet", "--no-stream")
    require(said.strip() == "42", f"a remote backend's answer was {said!r}")
    for arguments in (("run", "arithmetic", "2+2"), ("serve",), ("view",)):
        require('pip install "llmprog[' in llmprog(*arguments, code=4), f"{arguments}: the missing extra is not named")
    require('pip install "llmprog[local]"' in llmprog("doctor"), "llmprog doctor does not say what is not installed")


def check_how_soon_it_starts():
    took, computed = [], []
    for _ in range(11):
        begun, before = time.perf_counter(), children_s()
        llmprog("--help")
        took.append(time.perf_counter() - begun)
        computed.append(children_s() - before)
    typical = statistics.median(computed)  # of the processor's time, which does not depend on what else runs
    print(f"llmprog --help: {1000 * statistics.median(took):.0f} ms, of it computing {1000 * typical:.0f}")
    require(typical < LIMIT_START_S, "llmprog --help takes too long")


def children_s():
    spent = os.times()
    return spent.children_user + spent.children_system


def check_sizes():
    rows = sizes()
    print(f"{'MB installed':<28}{'files':>8}{'bytecode':>10}")
    for name, of_files, of_bytecode in rows:
        if of_files + of_bytecode >= 0.5:
            print(f"{name:<28}{of_files:>8.1f}{of_bytecode:>10.1f}")
    of_files, of_bytecode = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(f"{f'all {len(rows)} packages':<28}{of_files:>8.1f}{of_bytecode:>10.1f}")
    require("torch" not in {name for name, _, _ in rows}, "torch was installed")
    require(of_files < LIMIT_MB, f"the files come to {of_files:.1f} MB; the limit is {LIMIT_MB}")
    whole = of_files + of_bytecode
    require(whole < LIMIT_WITH_BYTECODE_MB, f"{whole:.1f} MB with bytecode; the limit is {LIMIT_WITH_BYTECODE_MB}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMPROG_STORE"] = folder
        check_the_command_line()
    check_how_soon_it_starts()
    check_sizes()
    print("ok")
