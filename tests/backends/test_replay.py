"""Recording a backend's answers and replaying them: exactness, whole programs, misses."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import PARAMS, Able, ask, record, replayed

from llmprog.backends import ScriptedBackend, StreamingBackend
from llmprog.backends.replay import (
    Recorder,
    RecordingBackend,
    ReplayBackend,
)
from llmprog.errors import CapabilityError, ReplayMissError
from llmprog.json_values import completion_from_json, completion_to_json, request_from_json, request_to_json
from llmprog.programs import arithmetic, game24
from llmprog.types import (
    Blank,
    Choices,
    Completion,
    Delta,
    JsonSchema,
    Logprobs,
    Message,
    Prompt,
    Regex,
    Request,
    SamplingParams,
    Template,
    Usage,
)

PROMPT = Prompt.from_text("What is 2 + 2?", system="Be brief.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def miss(path: Path, request: Request) -> str:
    with pytest.raises(ReplayMissError) as caught:
        replayed(path, request)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 600
    return message


# ------------------------------------------------------------------------------------------------ exactness


def test_what_was_recorded_comes_back_exactly(path: Path) -> None:
    rich = Completion(
        text="4",
        finish_reason="length",
        reasoning="two and two",
        logprobs=Logprobs(tokens=("4",), logprobs=(-math.inf,)),
        usage=Usage(1, 9, 3, None, 4, 2),
        model="m-2",
        violation="not JSON",
    )
    (recorded,) = record(path, ScriptedBackend(lambda prompt, sample: rich), ask())
    assert replayed(path, ask()) == [recorded] == [[rich]]


def test_samples_may_be_asked_for_in_other_groups(path: Path) -> None:
    backend = ScriptedBackend(lambda prompt, sample: f"{sample}")
    record(path, backend, ask(n=3), ask(n=2, first=3))
    found = replayed(path, ask(n=5), *(ask(first=i) for i in range(5)))
    assert [c.text for c in found[0]] == list("01234")
    assert [c for single in found[1:] for c in single] == list(found[0])


def test_one_question_answered_differently_is_replayed_in_order_and_from_the_beginning(path: Path) -> None:
    answers = iter("abc")
    record(path, ScriptedBackend(lambda prompt, sample: next(answers)), *[ask(seed=None)] * 3)
    assert [c[0].text for c in replayed(path, *[ask(seed=None)] * 5)] == list("abcab")


def test_a_backend_that_returns_too_few_or_too_many(path: Path) -> None:
    class Uneven(ScriptedBackend):
        async def generate(self, request: Request) -> Sequence[Completion]:
            first = request.first_sample
            return [Completion(text=f"{first + i}") for i in range({0: 2, 2: 9}[first])]

    record(path, Uneven({}), ask(n=5), ask(n=3, first=2))
    (found,) = replayed(path, ask(n=5))
    assert [c.text for c in found] == list("01234")
    assert "sample 5 " in miss(path, ask(n=6))


_texts = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\0\u2028\u2029\x85\x1b\n\r"))


_completions = st.builds(
    Completion,
    text=_texts,
    reasoning=st.none() | _texts,
    finish_reason=st.sampled_from(["stop", "length", "content_filter", "error"]),
    logprobs=st.none()
    | st.lists(st.tuples(_texts, st.floats(allow_nan=False))).map(
        lambda pairs: Logprobs(tokens=tuple(t for t, _ in pairs), logprobs=tuple(p for _, p in pairs))
    ),
    usage=st.builds(Usage, st.integers(0), st.integers(0), usd=st.none() | st.floats(0, 1e6)),
)


_prompts = st.builds(
    Prompt,
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), _texts)).map(tuple),
    _texts,
)


_templates = st.builds(
    Template, _prompts, st.lists(_texts).map(lambda texts: (Blank(2), *texts, Blank(1)) if texts else (Blank(3),))
)


_requests = st.builds(
    Request,
    prompt=_prompts | _templates,
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0, 9),
        stop=st.lists(_texts.filter(bool)).map(tuple),
        seed=st.none() | st.integers(0, 2**63),
        logprobs=st.booleans(),
        guided=st.none() | st.sampled_from([JsonSchema.of({"type": "object"}), Regex("a+"), Choices(("a", "b"))]),
    ),
    num_samples=st.integers(1, 9),
    first_sample=st.integers(0, 9),
)


@given(_requests, _completions)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_text_survives(tmp_path: Path, request_: Request, completion: Completion) -> None:
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    with Recorder(path) as recorder:
        recorder.write(
            {"kind": "generate", "request": request_to_json(request_), "completions": [completion_to_json(completion)]}
        )
    entry = json.loads(path.read_bytes().split(b"\n")[1].decode("utf-8", "surrogatepass"))
    assert request_from_json(entry["request"]) == request_
    assert completion_from_json(entry["completions"][0]) == completion
    assert path.read_bytes().count(b"\n") == 2


def test_two_lone_surrogates_stay_two(path: Path) -> None:
    record(path, ScriptedBackend(lambda prompt, sample: "\ud83d\ude00 \U0001f600"), ask("\ud83d\ude00"))
    assert replayed(path, ask("\ud83d\ude00"))[0][0].text == "\ud83d\ude00 \U0001f600"
    assert "asked" in miss(path, ask("\U0001f600"))


async def test_streams_scores_and_infillings_are_recorded_too(path: Path) -> None:
    template = Template(PROMPT, ("2 + ", Blank(1), " = 4"))
    live, back = [], []
    with Recorder(path) as recorder:
        backend = RecordingBackend(Able(), recorder)
        assert isinstance(backend, StreamingBackend)
        streamed = await backend.stream(ask(n=2), live.append)
        scores = await backend.score(PROMPT, ["four", "", "five"])
        filled = await backend.infill(template, PARAMS, 3)
        await backend.aclose()
    replay = ReplayBackend(path)
    assert replay.capabilities == Able().capabilities
    assert await replay.stream(ask(n=2), back.append) == streamed
    assert len(live) > len(back) == 2
    assert ["".join(d.text for d in back if d.sample == i) for i in range(2)] == [c.text for c in streamed]
    assert await replay.score(PROMPT, ["five", "four", ""]) == [scores[2], scores[0], scores[1]]
    assert await replay.infill(template, PARAMS, 3) == filled
    with pytest.raises(ReplayMissError, match=r"nearest is other text, from character 3 on: asked 'fond'"):
        await replay.score(PROMPT, ["fond"])
    with pytest.raises(ReplayMissError, match=r"asked '.*2 \+ \[2 blank\]'"):
        await replay.infill(replace(template, parts=("2 + ", Blank(2))), PARAMS)
    await replay.aclose()
    await replay.aclose()


async def test_a_backend_that_does_not_stream_is_streamed_in_one_piece(path: Path) -> None:
    told: list[Delta] = []
    script = ScriptedBackend(lambda prompt, sample: Completion(text="b", reasoning="a"))
    with Recorder(path) as recorder:
        await RecordingBackend(script, recorder).stream(ask(), told.append)
    assert [(d.text, d.is_reasoning) for d in told] == [("a", True), ("b", False)]
    replay = ReplayBackend(path)
    assert replay.capabilities == script.capabilities
    with pytest.raises(CapabilityError, match="likelihoods"):
        await replay.score(PROMPT, ["x"])
    with pytest.raises(CapabilityError, match="blanks"):
        await replay.infill(Template(PROMPT, (Blank(1),)), PARAMS)


def test_capabilities_are_those_of_all_recorded_backends(path: Path) -> None:
    record(path, ScriptedBackend({}, n=False))
    assert not ReplayBackend(path).capabilities.n
    record(path, Able())
    assert ReplayBackend(path).capabilities == Able().capabilities


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("n", [True, False])
def test_a_run_replays_to_the_same_result(path: Path, n: bool) -> None:
    def reply(prompt: str, sample: int) -> str:
        return f"{sample} + 40 = {sample + 40}\nAnswer: {40 + sample % 3}"

    program = arithmetic(num_samples=9)
    with Recorder(path) as recorder:
        backend = RecordingBackend(ScriptedBackend(reply, n=n, shuffle=3), recorder)
        first = program.run("17 + 25", backend=backend, seed=5)
    second = program.run("17 + 25", backend=ReplayBackend(path), seed=5)
    assert second.graph.to_json() == first.graph.to_json()
    assert second.usage == first.usage
    assert second.answer == first.answer
    with pytest.raises(ReplayMissError, match=r"only the seed differs: asked .* recorded .*give the seed"):
        program.run("17 + 25", backend=ReplayBackend(path), seed=6)


def test_calls_that_a_found_goal_cancelled_are_not_missed(path: Path) -> None:
    class Slower(ScriptedBackend):
        async def generate(self, request: Request) -> Sequence[Completion]:
            await asyncio.sleep(0.002 * len(self.requests))
            return await super().generate(request)

    def reply(prompt: str, sample: int) -> str:
        if "Possible next steps" not in prompt:
            return "likely"
        left = prompt.rpartition("Input: ")[2].split("\n")[0]
        return {
            "4 6": "6 - 4 = 2 (left: 2)\n4 * 6 = 24 (left: 24)",
            "2 2 6": "2 + 2 = 4 (left: 4 6)\n2 * 6 = 12 (left: 2 12)\n2 + 6 = 8 (left: 2 8)",
        }.get(left, "")

    program = game24(num_samples=1)
    with Recorder(path) as recorder:
        script = Slower(reply)
        first = program.run("2 2 6", backend=RecordingBackend(script, recorder), seed=5)
    assert first.solved
    second = program.run("2 2 6", backend=ReplayBackend(path), seed=5)
    assert second.graph.to_json() == first.graph.to_json()
    assert second.answer == first.answer


# -------------------------------------------------------------------------------------------------- misses


def test_a_miss_names_what_differs(path: Path) -> None:
    texts = [f"Input: {i} 9 10 13\nPossible next steps:\n" for i in range(100, 300)]
    record(path, ScriptedBackend(lambda prompt, sample: "x"), *(ask(text) for text in texts), ask("Hello", n=3))
    assert "sample 3 of a request is not recorded" in miss(path, ask("Hello", first=3))
    assert "samples 0-2 of it are ('user: Hello')" in miss(path, ask("Hello", n=9))
    message = miss(path, ask("Hello", temperature=0.1, stop=("\n",)))
    assert "temperature=0.1 (recorded 0.7), stop=('\\n',) (recorded ())" in message
    message = miss(path, ask("Input: 217 9 10 14\nPossible next steps:\n"))
    assert "asked '…r: Input: 217 9 10 14\\nPoss" in message
    assert "recorded '…r: Input: 217 9 10 13\\nPoss" in message
    message = miss(path, ask("Hi, input: 217 9 10 13\nPossible next steps:\n", seed=1))
    assert "recorded 'user: Input: " in message
    assert "only the seed differs: asked 1, recorded 7" in message
    record(path, ScriptedBackend(lambda prompt, sample: "x"), Request(prompt=Prompt.from_text("Hi\nassistant: Yes")))
    twin = Request(prompt=Prompt((Message("user", "Hi"),), "Yes"))
    assert "one with the same text in other messages is" in miss(path, twin)


def test_a_miss_in_an_empty_recording(path: Path) -> None:
    record(path, ScriptedBackend({}))
    assert "the recording holds no requests" in miss(path, ask())


async def test_a_prompt_that_was_only_scored_is_no_request(path: Path) -> None:
    with Recorder(path) as recorder:
        await RecordingBackend(Able(), recorder).score(PROMPT, ["x"])
    replay = ReplayBackend(path)
    with pytest.raises(ReplayMissError, match="recorded for its scores only"):
        await replay.generate(Request(prompt=PROMPT))
    with pytest.raises(ReplayMissError, match="from character"):
        await replay.score(Prompt.from_text("Other"), ["x"])


def test_misses_stay_cheap_in_a_large_recording(path: Path) -> None:
    filler = "abc " * 2000
    with Recorder(path) as recorder:
        for i in range(100):
            request = request_to_json(ask(f"{filler}{i}{filler}"))
            recorder.write({"kind": "generate", "request": request, "completions": []})

    async def run() -> float:
        backend = ReplayBackend(path)
        begun = time.process_time()
        for i in range(10):
            with pytest.raises(ReplayMissError):
                await backend.generate(ask(f"{filler}x{i}{filler[::-1]}"))
        return time.process_time() - begun

    assert asyncio.run(run()) < 5
