"""Real servers on loopback, in a thread of the test process, with the embedded model."""

from __future__ import annotations

import httpx
import openai
import pytest

from llmprog.serving.background import serving

BACKENDS = ["puzzles=local:puzzles?threads=1", "diffusion=local:puzzles?decoder=masked_diffusion&threads=1"]


@pytest.fixture(scope="session")
def url():
    with serving(BACKENDS) as base:
        yield base


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client
