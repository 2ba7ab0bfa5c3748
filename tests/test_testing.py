"""The conformance suite: our backends pass it, and every check fails for a backend that breaks its promise."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmprog.backends import Backend, Capabilities, ScriptedBackend, open_backend
from llmprog.backends.replay import Recorder, RecordingBackend, ReplayBackend
from llmprog.errors import BackendError, CapabilityError, OptionError
from llmprog.testing import CHECKS, Check, ConformanceError, NotApplicable, Trial, backend_conformance, check_backend
from llmprog.types import (
    Blank,
    Completion,
    Delta,
    JsonSchema,
    Logprobs,
    Prompt,
    Regex,
    Request,
    SamplingParams,
    Template,
    Usage,
)

WORDS = ["sea", "sky", "the", "of", "and", "wind", "stone", "by", "under", "green"]


class Wordy:
    """A backend that keeps every promise, with a random-number generator for a model."""

    def __init__(self) -> None:
        self.id = "wordy"
        self.capabilities = Capabilities(
            n=True,
            logprobs=True,
            score=True,
            infill=True,
            seed=True,
            stream="append",
            guided=frozenset({"json", "regex", "choices"}),
        )

    async def generate(self, request: Request) -> Sequence[Completion]:
        await asyncio.sleep(0)
        str(request.prompt).encode("utf-8", "replace")
        return [self.sample(request, request.first_sample + i, i) for i in range(request.num_samples)]

    def sample(self, request: Request, index: int, place: int) -> Completion:
        params = request.params
        if params.guided is not None:
            kind = type(params.guided)
            return Completion(text="{}" if kind is JsonSchema else "ab" if kind is Regex else "yes", usage=Usage(1))
        asked = request.prompt
        rng = random.Random(f"{params.seed} {index} {asked!r}")
        words = rng.choices(WORDS, k=8)[: params.max_tokens]
        text = " ".join(words)
        ends = [text.index(end) for end in params.stop if end in text]
        reason = "length" if params.max_tokens <= 8 else "stop"
        if ends:
            text, reason = text[: min(ends)], "stop"
        tokens = tuple(text)
        return Completion(
            text=text,
            finish_reason=reason,
            reasoning="hm" if index % 2 else None,
            logprobs=Logprobs(tokens=tokens, logprobs=(-0.5,) * len(tokens)) if params.logprobs else None,
            usage=Usage(1, 5 if place == 0 else 0, len(words), 0.0),
        )

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        completions = await self.generate(request)
        for sample, completion in enumerate(completions):
            on_delta(Delta(sample=sample, text="false start"))
            on_delta(Delta(sample=sample, text="", replaces=True))
            on_delta(Delta(sample=sample, text=completion.reasoning or "", is_reasoning=True))
            for letter in completion.text:
                on_delta(Delta(sample=sample, text=letter))
        return completions

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        return [Logprobs(tokens=tuple(t), logprobs=tuple(-ord(c) / 200 for c in t)) for t in continuations]

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        text = "".join("x" if isinstance(part, Blank) else part for part in template.parts)
        return [Completion(text=text, usage=Usage(1))] * num_samples

    async def aclose(self) -> None:
        pass


def with_prefix(text: str) -> Template:
    return Template(Prompt.from_text(text), ("a ", Blank(2), " b"))


PROMPTS = ("Say something.", Prompt.from_text("And now?", system="Be brief."))
TRIAL = Trial(open=Wordy, prompts=PROMPTS, template=with_prefix("Fill in."), timeout_s=20)

# ------------------------------------------------------------------------------------- backends that conform

test_a_backend_that_keeps_every_promise = backend_conformance(Wordy, prompts=PROMPTS, template=TRIAL.template)

KNOWS_NO_PARAMETERS = "a script knows neither parameters nor prefix"
test_scripted = backend_conformance(
    lambda: ScriptedBackend(lambda prompt, sample: f"{len(prompt)} words {sample}"),
    prompts=PROMPTS,
    skip=dict.fromkeys(("stop", "max_tokens", "prefix"), KNOWS_NO_PARAMETERS),
)
test_scripted_one_by_one = backend_conformance(
    lambda: ScriptedBackend(lambda prompt, sample: f"{len(prompt)} words {sample}", n=False, shuffle=1),
    prompts=PROMPTS,
    skip=dict.fromkeys(("stop", "max_tokens", "prefix"), KNOWS_NO_PARAMETERS),
)

SUDOKU = Prompt.from_text("1 . . 4\n. . 1 .\n. 1 . .\n4 . . 1\nSolution:\n")
PUZZLES: dict[str, Any] = {
    "prompts": ["Input: 4 9 10 13\nPossible next steps:\n", "Question: What is (3 + 4) * 2?\nReasoning:\n"],
    "params": SamplingParams(max_tokens=8, seed=1, temperature=1.0),
    "template": Template(SUDOKU, ("1 ", Blank(2), " 4\n", Blank(2), " 1 2\n")),
}


def puzzles(decoder: str) -> Callable[[], Backend]:
    return lambda: open_backend(f"local:puzzles?decoder={decoder}&device=cpu&threads=1")


test_autoregressive = backend_conformance(puzzles("autoregressive"), **PUZZLES)
test_masked_diffusion = backend_conformance(puzzles("masked_diffusion&score_samples=8"), **PUZZLES)
test_hybrid = backend_conformance(puzzles("hybrid"), **PUZZLES)


@pytest.fixture(scope="module", params=["local", "wordy"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A replay of the suite's own calls, and what it is to be tried on."""
    path = tmp_path_factory.mktemp("recordings") / "suite.jsonl"
    trial = TRIAL if request.param == "wordy" else Trial(open=puzzles("autoregressive"), **PUZZLES)
    with Recorder(path) as recorder:
        report = asyncio.run(check_backend(replace(trial, open=lambda: RecordingBackend(trial.open(), recorder))))
    assert not report.failures, report
    return replace(trial, open=lambda: ReplayBackend(path))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_recorded_and_replayed(check: Check, recorded: Trial) -> None:
    check.test(recorded)


# -------------------------------------------------------------------------------- backends that break a promise


class Broken(Wordy):
    """Breaks one promise: a method that is another's."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.num_closed = 0
        change: dict[str, dict[str, Any]] = {
            "unclaimed score": {"score": False},
            "unclaimed infill": {"infill": False},
            "infill refused otherwise": {"infill": False},
            "unclaimed logprobs": {"logprobs": False},
            "unknown form": {"guided": frozenset({"haiku"})},
        }
        self.capabilities = replace(self.capabilities, **change.get(fault, {}))
        self.id = {"two lines": "a\nb", "no id": "", "user in id": "http://me:pass@host/v1"}.get(fault, "broken")
        if fault == "another id":
            self.id = f"broken {id(self)}"
        if fault == "no capabilities":
            self.capabilities = {}

    async def generate(self, request: Request) -> Sequence[Completion]:
        if self.num_closed or self.fault == "broken for good":
            raise BackendError("the pool is exhausted", backend=self.id)
        try:
            await asyncio.sleep(0.02 if "cancel" in self.fault else 0)
        except asyncio.CancelledError:
            if await self.is_cancelled():
                raise
        if self.fault == "encodes strictly":
            request.prompt.messages[-1].content.encode()
        if self.fault == "refuses logprobs" and request.params.logprobs:
            raise CapabilityError("no log-probabilities", backend=self.id)
        if self.fault == "state shared by calls":
            self.current = request
            await asyncio.sleep(0)
            request = self.current
        completions = await super().generate(self.changed(request))
        return [self.spoilt(completion, request) for completion in completions]

    async def is_cancelled(self) -> bool:
        if self.fault == "ends long after cancellation":
            await asyncio.sleep(60)
        if self.fault == "leaves tasks when cancelled":
            self.left = asyncio.ensure_future(asyncio.sleep(60))
        if self.fault == "dead after cancellation":
            self.fault = "broken for good"
        return self.fault != "swallows cancellation"

    def changed(self, request: Request) -> Request:
        changes: dict[str, dict[str, Any]] = {
            "one too few": {"num_samples": max(1, request.num_samples - 1)},
            "ignores first_sample": {"first_sample": 0},
            "ignores stop": {"params": replace(request.params, stop=())},
            "ignores max_tokens": {"params": replace(request.params, max_tokens=99)},
        }
        return replace(request, **changes.get(self.fault, {}))

    def spoilt(self, completion: Completion, request: Request) -> Completion:
        text, usage, logprobs = completion.text, completion.usage, completion.logprobs
        asked_prefix = getattr(request.prompt, "prefix", "")
        changes: dict[str, dict[str, Any]] = {
            "bytes": {"text": text.encode()},
            "another reason": {"finish_reason": "eos"},
            "keeps stop": {"text": text + (request.params.stop[0] if request.params.stop else "")},
            "stopped by length": {"finish_reason": "length"},
            "negative usage": {"usage": replace(usage, completion_tokens=-1)},
            "cached beyond prompt": {"usage": replace(usage, cached_tokens=6)},
            "negative price": {"usage": replace(usage, usd=-1.0)},
            "counts no calls": {"usage": replace(usage, calls=0)},
            "prompt counted for each": {"usage": replace(usage, prompt_tokens=5)},
            "no usage": {"usage": None},
            "not of the form": {"text": "maybe" if request.params.guided is not None else text},
            "repeats prefix": {"text": asked_prefix + text},
            "no logprobs": {"logprobs": None},
        }
        if logprobs is not None:
            changes |= {
                "infinite logprobs": {"logprobs": replace(logprobs, logprobs=(-float("inf"),) * len(logprobs.tokens))},
                "probabilities": {"logprobs": replace(logprobs, logprobs=(0.5,) * len(logprobs.tokens))},
                "fewer logprobs": {"logprobs": replace(logprobs, logprobs=logprobs.logprobs[1:])},
                "other tokens": {"logprobs": replace(logprobs, tokens=("x",) * len(logprobs.tokens))},
            }
        if self.fault == "a dictionary":
            return {"text": text}
        return replace(completion, **changes.get(self.fault, {}))

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        told: list[Delta] = []
        completions = await super().stream(request, told.append)
        if self.fault == "stream says otherwise":
            request = replace(request, first_sample=50)
            told.clear()
            completions = await super().stream(request, told.append)
        if self.fault == "stream loses a sample":
            completions = completions[1:]
        for delta in told[:-1] if self.fault == "loses a piece" else told:
            changes: dict[str, dict[str, Any]] = {
                "replacing pieces": {"replaces": True},
                "wrong sample": {"sample": delta.sample + 1},
                "other reasoning": {"text": "so" if delta.is_reasoning else delta.text},
            }
            on_delta(replace(delta, **changes.get(self.fault, {})))
        return completions

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        found = list(await super().score(prompt, continuations))
        return {
            "sorted scores": sorted(found, key=lambda s: s.total),
            "a score too few": found[1:],
            "scores without tokens": [Logprobs(tokens=(), logprobs=()) for _ in found],
            "infinite scores": [replace(s, logprobs=(-float("inf"),) * len(s.tokens)) for s in found],
            "an empty text is unlikely": [s if s.tokens else Logprobs(tokens=("",), logprobs=(-1.0,)) for s in found],
        }.get(self.fault, found)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        if self.fault == "infill refused otherwise":
            raise NotImplementedError
        found = list(await super().infill(template, params, num_samples))
        if self.fault == "infill loses given text":
            return [replace(c, text=c.text[1:]) for c in found]
        return found[1:] if self.fault == "an infilling too few" else found

    async def aclose(self) -> None:
        self.num_closed += 1
        if self.fault == "closes once" and self.num_closed == 2:
            raise RuntimeError("already closed")


FAULTS = {
    "identity": ["two lines", "no id", "user in id", "another id", "no capabilities"],
    "samples": ["one too few", "a dictionary", "bytes", "another reason"],
    "sample_index": ["ignores first_sample"],
    "stop": ["ignores stop", "keeps stop", "stopped by length"],
    "max_tokens": ["ignores max_tokens"],
    "usage": [
        "negative usage",
        "cached beyond prompt",
        "negative price",
        "counts no calls",
        "no usage",
        "prompt counted for each",
    ],
    "logprobs": [
        "no logprobs",
        "unclaimed logprobs",
        "refuses logprobs",
        "infinite logprobs",
        "probabilities",
        "fewer logprobs",
        "other tokens",
    ],
    "guided": ["not of the form", "unknown form"],
    "score": [
        "sorted scores",
        "a score too few",
        "scores without tokens",
        "infinite scores",
        "unclaimed score",
        "an empty text is unlikely",
    ],
    "infill": ["unclaimed infill", "infill refused otherwise", "infill loses given text", "an infilling too few"],
    "prefix": ["repeats prefix"],
    "stream": [
        "loses a piece",
        "replacing pieces",
        "wrong sample",
        "other reasoning",
        "stream says otherwise",
        "stream loses a sample",
    ],
    "concurrency": ["state shared by calls"],
    "cancellation": ["swallows cancellation", "ends long after cancellation", "leaves tasks when cancelled"],
    "hostile_text": ["encodes strictly"],
    "closing": ["closes once"],
}


def fails(check_name: str, open_: Callable[[], Any], error: type[Exception] = ConformanceError) -> str:
    (check,) = [check for check in CHECKS if check.name == check_name]
    with pytest.raises(error) as caught:
        asyncio.run(check.run(replace(TRIAL, open=open_, timeout_s=2)))
    return str(caught.value)


@pytest.mark.parametrize(("check", "fault"), [(check, fault) for check, faults in FAULTS.items() for fault in faults])
def test_a_broken_promise_is_found(check: str, fault: str) -> None:
    if check == "closing":
        (closing,) = [c for c in CHECKS if c.name == check]
        with pytest.raises(ConformanceError, match="closing twice to be harmless"):
            asyncio.run(closing.function(Broken(fault), TRIAL))
        return
    assert "expected" in fails(check, lambda: Broken(fault))


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert list(FAULTS) == [check.name for check in CHECKS]


def test_a_backend_broken_by_cancellation_is_found() -> None:
    assert "pool is exhausted" in fails("cancellation", lambda: Broken("dead after cancellation"), BackendError)


def test_a_stream_without_its_method_is_found() -> None:
    class Claims(ScriptedBackend):
        def __init__(self) -> None:
            super().__init__(lambda prompt, sample: "x")
            self.capabilities = replace(self.capabilities, stream="append")

    assert "a method 'stream'" in fails("stream", Claims)


def test_half_a_backend_is_found() -> None:
    class Half:
        id = "half"

        async def aclose(self) -> None:
            pass

    assert "generate" in fails("identity", Half)


def test_a_key_in_the_id_is_found_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDY_API_KEY", "sk-canary-77aa")

    class Leaky(Wordy):
        def __init__(self) -> None:
            super().__init__()
            self.id = "wordy?key=sk-canary-77aa"

    message = fails("identity", Leaky)
    assert "$WORDY_API_KEY" in message
    assert "canary" not in message


def test_a_check_that_takes_too_long_fails() -> None:
    class Slow(Wordy):
        async def generate(self, request: Request) -> Sequence[Completion]:
            await asyncio.sleep(9)
            return []

    (check,) = [check for check in CHECKS if check.name == "samples"]
    with pytest.raises(ConformanceError, match=r"samples: not done within 0\.05 s"):
        asyncio.run(check.run(replace(TRIAL, open=Slow, timeout_s=0.05)))


# ----------------------------------------------------------------------------------------------------- reports


def test_a_report_says_how_each_check_came_out() -> None:
    report = asyncio.run(check_backend(replace(TRIAL, open=lambda: Broken("ignores stop")), skip={"usage": "later"}))
    assert [finding.check for finding in report.findings] == [check.name for check in CHECKS]
    assert [finding.check for finding in report.failures] == ["stop"]
    lines = str(report).splitlines()
    assert "usage         skipped  later" in lines
    assert "identity      passed" in lines
    assert any(line.startswith("stop          failed   expected no completion to hold") for line in lines)


def test_a_report_holds_errors_of_all_kinds_and_what_is_not_claimed() -> None:
    class Raises(ScriptedBackend):
        async def generate(self, request: Request) -> Sequence[Completion]:
            raise ZeroDivisionError("oh")

    report = asyncio.run(check_backend(replace(TRIAL, open=lambda: Raises({}))))
    found = {finding.check: finding for finding in report.findings}
    assert found["samples"].reason == "it raised ZeroDivisionError: oh"
    assert found["stream"].reason == "it does not stream"
    assert found["guided"].outcome == "skipped"


def test_what_is_short_is_not_applicable() -> None:
    for name in ("stop", "prefix", "score"):
        (check,) = [check for check in CHECKS if check.name == name]

        class Mute(Wordy):
            def sample(self, request: Request, index: int, place: int) -> Completion:
                return Completion(text="")

        with pytest.raises(NotApplicable):
            asyncio.run(check.run(replace(TRIAL, open=Mute)))


def test_unknown_checks_and_missing_prompts_are_refused() -> None:
    with pytest.raises(OptionError, match=r"unknown check 'speed'; known: cancellation, closing"):
        backend_conformance(Wordy, prompts=PROMPTS, skip={"speed": "slow"})
    for prompts in ("one", []):
        with pytest.raises(OptionError, match="one or more prompts"):
            backend_conformance(Wordy, prompts=prompts)


def test_importing_the_suite_does_not_import_pytest() -> None:
    code = "import sys, llmprog.testing; print('pytest' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert shown.stdout.split() == ["False", "False"]
