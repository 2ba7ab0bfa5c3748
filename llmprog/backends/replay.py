"""``replay:FILE``: the answers of a recording instead of a model's, exactly and at no cost.

A call is found by what was asked: prompt, parameters (the seed among them) and sample index, each on its own, so that
samples may be asked for in other groups than they were recorded in. ``llmprog.backends.recording`` makes recordings.
"""

from __future__ import annotations

import asyncio
import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmprog.backends.base import Capabilities
from llmprog.backends.recording import (
    Recorder,
    RecordingBackend,
    capabilities_from_json,
    check_header,
    tell_whole,
)
from llmprog.backends.registry import BackendInfo
from llmprog.errors import CapabilityError, LLMProgError, OptionError, ReplayMissError
from llmprog.json_values import (
    completion_from_json,
    logprobs_from_json,
    prompt_from_json,
    request_from_json,
    score_digest,
)
from llmprog.log import Log
from llmprog.redaction import redact
from llmprog.types import Blank, Completion, Delta, Logprobs, Prompt, Request, SamplingParams, Template

__all__ = ["Recorder", "RecordingBackend", "ReplayBackend", "describe_options", "list_backends", "open_backend"]

_NUM_NEIGHBOURS = 8  # of each kind that are compared with a request that is not recorded
_COMPARED = 1000  # characters of what differs that are compared
_SHOWN = 40  # characters shown of each side of a difference

T = TypeVar("T")
Asked = Prompt | Template

log = Log("llmprog.replay")


def open_backend(name: str, options: Mapping[str, str]) -> ReplayBackend:
    """The recording in the file called ``name``; there are no options.

    Raises:
        OptionError: The file is missing or no recording, or an option is given.
    """
    for option in options:
        raise OptionError.unknown(f"option of replay:{name}:", option, describe_options())
    return ReplayBackend(name)


def describe_options() -> Mapping[str, str]:
    """None: a recording answers what was asked, and nothing else."""
    return {}


def list_backends() -> Sequence[BackendInfo]:
    """One line for all recordings."""
    return [BackendInfo(id="replay:FILE", summary="the answers that were recorded to FILE, exactly and at no cost")]


class ReplayBackend:
    """Answers as a recording says.

    It has the capabilities of all backends that were recorded, and gives completions with the usage they had. What was
    recorded several times for the same sample of the same request (calls without a seed, several runs in one file) is
    answered in the order of recording, and from the beginning after the last. Calls that failed or were cancelled are
    not in a recording.

    Args:
        path: A file made by ``Recorder``.

    Raises:
        OptionError: It cannot be read, or is no recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self.id = f"replay:{self._path}"
        self.capabilities = Capabilities()
        self._samples: dict[tuple[Asked, SamplingParams], dict[int, _Takes[Completion]]] = {}
        self._scores: dict[tuple[Prompt, str], _Takes[Logprobs]] = {}
        # What was asked with secrets in it is recorded without them, and found by its digest.
        self._by_digest: dict[str, tuple[Asked, SamplingParams]] = {}
        self._scores_by_digest: dict[str, tuple[Prompt, str]] = {}
        self._nearest: _Nearest | None = None
        self._read()

    async def generate(self, request: Request) -> Sequence[Completion]:
        """The recorded completions.

        Raises:
            ReplayMissError: One of them is not recorded; the message names the nearest request that is.
        """
        await asyncio.sleep(0)  # other tasks have their turn, as with any model
        key = (request.prompt, request.params)
        found = self._samples.get(key)
        if found is None and self._by_digest:
            key = self._by_digest.get(request.digest(), key)
            found = self._samples.get(key)
        if found is None:
            raise self._miss("a request", *key)
        wanted = range(request.first_sample, request.first_sample + request.num_samples)
        missing = next((i for i in wanted if i not in found), None)
        if missing is not None:
            raise ReplayMissError(
                f"sample {missing} of a request is not recorded, {_ranges(found)} of it are "
                f"({_excerpt(_text_of(request.prompt))}); record a run that draws as many samples",
                backend=self.id,
            )
        return [found[i].next() for i in wanted]

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        """The recorded completions, each in one piece.

        Raises:
            ReplayMissError: One of them is not recorded.
        """
        completions = await self.generate(request)
        tell_whole(completions, on_delta, replaces=self.capabilities.stream == "replace")
        return completions

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The recorded scores.

        Raises:
            CapabilityError: None of the recorded backends gave likelihoods.
            ReplayMissError: A continuation's score is not recorded.
        """
        if not self.capabilities.score:
            raise CapabilityError("no backend that was recorded gives likelihoods", backend=self.id)
        await asyncio.sleep(0)
        return [score.next() for score in [self._score_of(prompt, text) for text in continuations]]

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """The recorded completions.

        Raises:
            CapabilityError: None of the recorded backends fills blanks.
            ReplayMissError: One of them is not recorded.
        """
        if not self.capabilities.infill:
            raise CapabilityError("no backend that was recorded fills blanks", backend=self.id)
        return await self.generate(Request(prompt=template, params=params, num_samples=num_samples))

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Nothing: what a recording says was paid when it was made."""
        return 0.0

    async def aclose(self) -> None:
        """Nothing to release."""

    def _score_of(self, prompt: Prompt, continuation: str) -> _Takes[Logprobs]:
        found = self._scores.get((prompt, continuation))
        if found is None and self._scores_by_digest:
            key = self._scores_by_digest.get(score_digest(prompt, continuation))
            found = None if key is None else self._scores[key]
        if found is None:
            raise self._miss("a continuation's score", prompt, continuation)
        return found

    def recorded_samples(
        self,
    ) -> Iterator[tuple[tuple[Prompt | Template, SamplingParams], dict[int, Sequence[Completion]]]]:
        """Each request that was recorded, with its completions by sample index, in the order of recording."""
        for asked, samples in self._samples.items():
            yield asked, {i: takes.items for i, takes in samples.items()}

    def recorded_scores(self) -> dict[tuple[Prompt, str], Logprobs]:
        """The log-probabilities that were recorded, by prompt and continuation."""
        return {asked: takes.items[0] for asked, takes in self._scores.items()}

    def _read(self) -> None:
        try:
            lines = Path(self._path).read_bytes().split(b"\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OptionError(f"no recording at {self._path!r}: {reason}; make one with --record FILE") from error
        check_header(lines[0], self._path)
        for number, line in enumerate(lines[1:], 2):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError):
                log.warning("a torn line of a recording is left out", path=self._path, line=number)
                continue
            try:
                self._take_in(entry)
            except (KeyError, TypeError, ValueError, AttributeError, LLMProgError) as error:
                raise OptionError(
                    f"{self._path!r}, line {number}: no record of a call ({type(error).__name__}: {error}); "
                    "remove the line, or record again"
                ) from error

    def _take_in(self, entry: Mapping[str, Any]) -> None:
        kind = entry.get("kind")
        if kind is None:
            self.capabilities = _union(self.capabilities, capabilities_from_json(entry["capabilities"]))
        elif kind == "score":
            prompt = prompt_from_json(entry["prompt"])
            for i, (text, score) in enumerate(zip(entry["continuations"], entry["scores"], strict=True)):
                self._scores.setdefault((prompt, text), _Takes()).add(logprobs_from_json(score))
                if "digests" in entry:
                    self._scores_by_digest[entry["digests"][i]] = (prompt, text)
        elif kind in ("generate", "infill"):
            request = request_from_json(entry["request"])
            key = (request.prompt, request.params)
            samples = self._samples.setdefault(key, {})
            for i, completion in enumerate(entry["completions"], request.first_sample):
                samples.setdefault(i, _Takes()).add(completion_from_json(completion))
            if "digest" in entry:
                self._by_digest[entry["digest"]] = key
        else:
            raise ValueError(f"unknown kind {kind!r:.40}")

    def _miss(self, what: str, asked: Asked, how: SamplingParams | str) -> ReplayMissError:
        if self._nearest is None:
            self._nearest = _Nearest([*self._samples, *self._scores])
        message = redact(self._nearest.explain(asked, how))
        return ReplayMissError(f"{what} is not recorded: {message}", backend=self.id)


class _Takes(Generic[T]):
    """Several answers to one question, given in turn."""

    __slots__ = ("_next", "items")

    def __init__(self) -> None:
        self.items: list[T] = []
        self._next = 0

    def add(self, item: T) -> None:
        self.items.append(item)

    def next(self) -> T:
        item = self.items[self._next]
        self._next = (self._next + 1) % len(self.items)
        return item


class _Nearest:
    """Finds the recorded request that is most like one that is not recorded.

    What is recorded is sorted by its text, read forwards and backwards: the neighbours of the text asked for share the
    longest beginnings and ends with it, and only they are compared.
    """

    def __init__(self, recorded: Sequence[tuple[Asked, SamplingParams | str]]) -> None:
        self._how: dict[Asked, list[SamplingParams | str]] = {}
        for asked, how in recorded:
            self._how.setdefault(asked, []).append(how)
        texts = {_text_of(asked): asked for asked in self._how}
        self._forwards = sorted(texts)
        self._backwards = sorted(text[::-1] for text in texts)
        self._asked_by_text = texts

    def explain(self, asked: Asked, how: SamplingParams | str) -> str:
        """What is nearest to the request, and how it differs."""
        if asked in self._how:
            return self._explain_how(how, self._how[asked])
        text = _text_of(asked)
        near = _neighbours(self._forwards, text) | {t[::-1] for t in _neighbours(self._backwards, text[::-1])}
        if not near:
            return "the recording holds no requests"
        best = max(sorted(near), key=lambda other: _similarity(text, other))  # sorted: ties end alike in every process
        if best == text:
            return f"one with the same text in other messages is: {_excerpt(text)}"
        message = f"the nearest has another prompt, {_difference(text, best)}"
        recorded = self._how[self._asked_by_text[best]]
        if isinstance(how, SamplingParams) and how not in recorded:
            message += f"; as for the parameters, {self._explain_how(how, recorded)}"
        return message

    def _explain_how(self, how: SamplingParams | str, recorded: Sequence[SamplingParams | str]) -> str:
        if isinstance(how, str):
            texts = [other for other in recorded if isinstance(other, str)]
            if not texts:
                return f"the prompt is, but not to score {_excerpt(how)} after it"
            nearest = max(texts, key=lambda other: _similarity(how, other))
            return f"of the continuations of this prompt, the nearest is other text, {_difference(how, nearest)}"
        found = [_differing(how, other) for other in recorded if isinstance(other, SamplingParams)]
        if not found:
            return "the prompt is recorded for its scores only"
        best = min(found, key=len)
        if list(best) == ["seed"]:
            return (
                f"only the seed differs: asked {best['seed'][0]!r}, recorded {best['seed'][1]!r}; "
                "give the seed of the recorded run"
            )
        listed = ", ".join(f"{name}={mine!r:.60} (recorded {other!r:.60})" for name, (mine, other) in best.items())
        return f"the nearest has other parameters: {listed}"


def _differing(mine: SamplingParams, other: SamplingParams) -> dict[str, tuple[Any, Any]]:
    pairs = {f.name: (getattr(mine, f.name), getattr(other, f.name)) for f in fields(SamplingParams)}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def _neighbours(ordered: Sequence[str], text: str) -> set[str]:
    place = bisect_left(ordered, text)
    return set(ordered[max(0, place - _NUM_NEIGHBOURS) : place + _NUM_NEIGHBOURS])


def _num_shared(a: str, b: str) -> int:
    """Length of the common beginning, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _similarity(a: str, b: str) -> float:
    """How much of both texts is shared, 0 to 1: beginning and end, and for half, letters in any order in between.

    The alignment that ``SequenceMatcher.ratio`` looks for takes cubic time on repetitive text.
    """
    start = _num_shared(a, b)
    a, b, length = a[start:], b[start:], len(a) + len(b)
    end = _num_shared(a[::-1], b[::-1])
    a, b = a[: len(a) - end][:_COMPARED], b[: len(b) - end][:_COMPARED]
    between = SequenceMatcher(None, a, b, autojunk=False).quick_ratio() * (len(a) + len(b))
    return (2 * (start + end) + between / 2) / max(1, length)


def _difference(mine: str, recorded: str) -> str:
    """Where two texts begin to differ, and what each says there."""
    place = _num_shared(mine, recorded)
    start = max(0, place - _SHOWN // 2)
    shown = [_excerpt(text[start:], cut=start > 0) for text in (mine, recorded)]
    return f"from character {place + 1} on: asked {shown[0]}, recorded {shown[1]}"


def _excerpt(text: str, *, cut: bool = False) -> str:
    shown = text if len(text) <= _SHOWN + _SHOWN // 2 else text[: _SHOWN + _SHOWN // 2] + "…"
    return repr(("…" if cut else "") + shown)


def _text_of(asked: Asked) -> str:
    prompt = asked.prompt if isinstance(asked, Template) else asked
    text = "\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
    if prompt.prefix:
        text += f"\nassistant: {prompt.prefix}"
    if isinstance(asked, Template):
        text += "\n" + "".join(f"[{p.num_tokens} blank]" if isinstance(p, Blank) else p for p in asked.parts)
    return text


def _ranges(numbers: Mapping[int, object]) -> str:
    """``samples 0-4 and 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [f"{low}-{high}" if high > low else str(low) for low, high in runs]
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return f"sample{'s' if len(numbers) > 1 else ''} {', '.join(texts[:5])}{more}" if texts else "no samples"


def _union(a: Capabilities, b: Capabilities) -> Capabilities:
    """What either can do; the shorter context."""
    lengths = [c.context_length for c in (a, b) if c.context_length is not None]
    return Capabilities(
        n=a.n or b.n,
        logprobs=a.logprobs or b.logprobs,
        score=a.score or b.score,
        infill=a.infill or b.infill,
        seed=a.seed or b.seed,
        context_length=min(lengths, default=None),
        stream=a.stream if a.stream != "none" else b.stream,
        guided=a.guided | b.guided,
    )
