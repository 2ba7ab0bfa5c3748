"""Bodies as requests of this library, and its errors as statuses."""

from __future__ import annotations

import json

import pytest

from llmprog.backends import Capabilities, ScriptedBackend, open_backend
from llmprog.errors import (
    BackendError,
    CapabilityError,
    CompileError,
    InputError,
    NodeError,
    OptionError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    StoreError,
)
from llmprog.serving.asking import chat_plan
from llmprog.serving.bodies import ChatBody
from llmprog.serving.catalog import Catalog, backends_of, may_cost
from llmprog.serving.exchange import Plan
from llmprog.serving.faults import RequestError, fault_of
from llmprog.serving.reading import parse_body
from llmprog.types import Choices, JsonSchema, Message, Prompt, Regex

BODY = {"model": "m", "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "?"}]}


async def asked(**options):
    """The request that a backend gets for a chat body."""
    backend = ScriptedBackend(lambda *_: "yes")
    backend.capabilities = Capabilities(n=True, logprobs=True, guided=frozenset({"json", "regex", "choices"}))
    plan = chat_plan(parse_body(json.dumps(BODY | options).encode(), ChatBody), backend, None)
    assert isinstance(plan, Plan)
    await plan.work()
    (request,) = backend.requests
    return request


async def test_what_a_body_leaves_open_is_as_the_protocol_has_it():
    request = await asked()
    assert request.prompt == Prompt((Message("system", "Be brief."), Message("user", "?")))
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.stop, params.seed, params.logprobs, params.guided) == (512, (), None, False, None)


async def test_every_parameter_arrives():
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3, "logprobs": True, "n": 2}
    request = await asked(**given, max_completion_tokens=9, stop=["a", "b"])
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.1)
    assert (params.seed, params.logprobs, params.max_tokens, params.stop) == (3, True, 9, ("a", "b"))
    assert request.num_samples == 2
    assert (await asked(top_k=-1, stop="a")).params.stop == ("a",)


@pytest.mark.parametrize(
    ("options", "guided"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonSchema('{"type": "object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            JsonSchema('{"type": "array"}'),
        ),
        ({"structured_outputs": {"json": {"type": "array"}}}, JsonSchema('{"type": "array"}')),
        ({"structured_outputs": {"regex": "[ab]+"}}, Regex("[ab]+")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, Choices(("yes", "no"))),
    ],
)
async def test_forms_of_a_reply(options, guided):
    assert (await asked(**options)).params.guided == guided


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "one form"),
        ({"add_generation_prompt": False}, "with continue_final_message"),
        ({"continue_final_message": True}, "must be the assistant's"),
        ({"response_format": {"type": "json_schema"}}, "needs a json_schema"),
    ],
)
async def test_what_contradicts_itself_is_refused(options, says):
    with pytest.raises(RequestError, match=says):
        await asked(**options)


async def test_the_beginning_of_a_reply_is_no_message():
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "It is"}]
    request = await asked(messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert request.prompt == Prompt((Message("user", "?"),), "It is")
    with pytest.raises(RequestError, match="no effect"):
        await asked(messages=messages, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InputError("x"), 400, None),
        (OptionError("x"), 400, None),
        (CapabilityError("x", backend="b"), 400, "unsupported"),
        (RequestRefusedError("x", backend="b"), 400, None),
        (RateLimitError("x", backend="b", retryable=True, retry_after_s=7.2), 429, "rate_limit_exceeded"),
        (BackendError("x", backend="b", retryable=True), 503, "backend_unavailable"),
        (QuotaError("x", backend="b"), 502, "backend_failed"),
        (CompileError("p", ["x"]), 500, "program_failed"),
        (NodeError("n", "x"), 500, "program_failed"),
        (StoreError("x"), 500, "failed"),
        (ValueError("x"), 500, "internal_error"),
    ],
)
def test_errors_have_a_status_by_whose_fault_they_are(error, status, code):
    fault = fault_of(error)
    assert (fault.status, fault.code) == (status, code)
    assert ("retry-after" in fault.headers) == (code in ("rate_limit_exceeded", "backend_unavailable"))
    if code == "rate_limit_exceeded":
        assert fault.headers["retry-after"] == "8"


def test_backends_have_names_of_their_own():
    for ids, says in (
        (["local:puzzles", "local:puzzles"], "served already"),
        (["program:x=local:puzzles"], "unknown backend|programs'"),
        ([], "no backend"),
        (["nope"], "unknown backend 'nope'"),
    ):
        with pytest.raises(OptionError, match=says):
            backends_of(ids)


def test_what_may_cost_money_is_known():
    assert may_cost(open_backend("http://127.0.0.1:9/v1#nobody"))
    assert not may_cost(ScriptedBackend({}))


def test_a_program_runs_on_the_backend_behind_its_at_sign():
    first, second = ScriptedBackend({}), ScriptedBackend({})
    catalog = Catalog({"a": first, "b": second})
    assert catalog.find("program:game24").backend is first
    assert catalog.find("program:game24@b").backend is second
    assert catalog.find("program:game24").program is catalog.find("program:game24@b").program
    for unknown in ("program:", "program:@a", "game24", "program:game24@c", "program:game24@"):
        with pytest.raises(RequestError, match="unknown model"):
            catalog.find(unknown)
