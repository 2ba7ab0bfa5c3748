"""What any run store keeps of calls: all that was said, exactly, and no secret."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmprog.runs.info import RunInfo
from llmprog.types import (
    Blank,
    Choices,
    Completion,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Scoring,
    Template,
    Usage,
)

PARAMS = SamplingParams(seed=3, max_tokens=100)
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)


def ask(text="2 + 2?", *, num_samples=1, first_sample=0, params=PARAMS):
    return Request(prompt=Prompt.from_text(text), params=params, num_samples=num_samples, first_sample=first_sample)


def test_secrets_are_not_written(store, info):
    from llmprog.redaction import register_secret

    secret = "sk-tests-only-0123456789"
    register_secret(secret)

    async def write():
        given = replace(info, input={"key": secret}, config={"x": [secret]}, program_text=f"p {secret}", program=secret)
        journal = store.create(given)
        calls = journal.at("")
        completion = Completion(
            text=f"t {secret}",
            reasoning=secret,
            model=secret,
            violation=secret,
            logprobs=Logprobs(tokens=("sk-tests", "-only-0123456789"), logprobs=(0.0, 0.0)),
        )
        call = await calls.send(
            "think", "test:model", ask(f"q {secret}", params=replace(PARAMS, stop=(secret,))), BOUND
        )
        calls.note_attempt(call, ValueError(secret), 0.1)
        await calls.settle(call, [completion], COST, 0.1)
        scoring = Scoring(Prompt.from_text(secret), (secret,))
        call = await calls.send("think", "test:model", scoring, BOUND)
        await calls.fail(call, ValueError(secret), BOUND, 0.5)
        journal.event("", "note", {"text": secret})
        await journal.finish_row(1, "d", {"answer": secret})
        await journal.finish("finished", {"answer": secret})
        await journal.aclose()
        return journal.id

    run_id = asyncio.run(write())
    with store.open(run_id) as run:
        told = repr([run.info, run.result, *run.calls(), *run.events(), *run.rows()])
    assert "[redacted]" in told
    assert secret not in told


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


usages = st.builds(
    Usage,
    *[st.integers(0, 2**40)] * 3,
    st.none() | st.floats(0, 1e9),
    *[st.integers(0, 2**40)] * 3,
)


logprobs = st.lists(st.tuples(texts, st.floats(max_value=0)), max_size=4).map(
    lambda pairs: Logprobs(tokens=tuple(p[0] for p in pairs), logprobs=tuple(p[1] for p in pairs))
)


completions = st.builds(
    Completion,
    text=texts | st.sampled_from(["", "\ud83d\ude00", "😀", "\0", "x" * 5000, "\ud800" * 2000]),
    finish_reason=st.sampled_from(["stop", "length", "content_filter", "error"]),
    reasoning=st.none() | texts,
    logprobs=st.none() | logprobs,
    usage=usages,
    model=st.none() | texts,
    violation=st.none() | texts,
)


prompts = st.builds(
    lambda text, system, prefix: replace(Prompt.from_text(text, system=system), prefix=prefix),
    texts,
    st.none() | texts,
    texts,
)


questions = st.builds(
    Request,
    prompt=prompts | st.builds(lambda prompt, text: Template(prompt, (text, Blank(3))), prompts, texts),
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0, 2) | st.integers(0, 2),
        stop=st.lists(texts.filter(bool), max_size=2).map(tuple),
        seed=st.none() | st.integers(-(2**63), 2**64),
        guided=st.none() | st.builds(Choices, st.lists(texts, min_size=1, max_size=2).map(tuple)),
    ),
    first_sample=st.integers(0, 1000),
)


def test_the_round_trip_knows_every_field():
    known = {"text", "finish_reason", "reasoning", "logprobs", "usage", "model", "violation"}
    assert {f.name for f in fields(Completion)} == known
    assert len(fields(Usage)) == 7


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(questions, st.lists(completions, max_size=3)), min_size=1, max_size=8))
def test_whatever_a_model_says_comes_back_as_it_was(store, asked):
    async def write_and_read():
        info = RunInfo(kind="run", program="p", program_hash="h", program_text="t", input=None, config={})
        journal = store.create(info)
        calls = journal.at("")
        for request, completions in asked:
            call = await calls.send("think", "test:model", request, BOUND)
            await calls.settle(call, completions, COST, 0.1)
        await journal.aclose()
        with store.open(journal.id) as run:
            records = list(run.calls())
        # text with a representation: equal values that are not the same (1, 1.0) and NaN are told apart
        assert [repr(r.question) for r in records] == [repr(request) for request, _ in asked]
        assert [repr(r.completions) for r in records] == [repr(completions) for _, completions in asked]
        journal = store.resume(journal.id)
        for request, completions in asked:
            wanted = replace(request, num_samples=max(1, len(completions)))
            found = journal.at("").recall("think", wanted)
            if sum(r.digest() == request.digest() for r, _ in asked) == 1:
                assert repr([found[s] for s in sorted(found)]) == repr(completions)
        await journal.aclose()
        store.delete(journal.id)

    asyncio.run(write_and_read())
