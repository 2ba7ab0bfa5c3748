"""The conformance checks: what the ``Backend`` protocol promises, each promise tried on a backend."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import get_args

from llmprog.backends.base import Backend, Capabilities, StreamingBackend
from llmprog.errors import CapabilityError, LLMProgError
from llmprog.redaction import redact
from llmprog.tasks import gather_or_cancel
from llmprog.testing.trial import Check, ConformanceError, NotApplicable, Trial
from llmprog.types import (
    Blank,
    Choices,
    Completion,
    Delta,
    FinishReason,
    Guided,
    JsonSchema,
    Logprobs,
    Prompt,
    Regex,
    Request,
    Template,
    Usage,
)

_TOLERANCE = 1e-3  # of log-probabilities, which depend a little on what else is in a batch
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8
_NUM_CONCURRENT = 16
_CANCELLING_S = 6.0  # a cancelled call may close its connection under a shield of 5 s
_HOSTILE = "\x00\ud800 \u202e\u2028 \x1b]8;;x\x07 {left} <|endoftext|> [MASK]"
_FORMS: dict[str, Guided] = {
    "json": JsonSchema.of({"type": "object"}),
    "regex": Regex("[a-c]{2}"),
    "choices": Choices(("yes", "no")),
}


async def draw(backend: Backend, request: Request) -> Sequence[Completion]:
    """``generate`` as the scheduler calls it: one sample at a time where the backend does not draw several."""
    if request.num_samples == 1 or backend.capabilities.n:
        return await backend.generate(request)
    singles = await gather_or_cancel(
        backend.generate(replace(request, num_samples=1, first_sample=request.first_sample + i))
        for i in range(request.num_samples)
    )
    return [completion for single in singles for completion in single]


def _fault(expected: str, came: object) -> ConformanceError:
    return ConformanceError(f"expected {expected}, but came {came!r:.300}")


async def _identity(backend: Backend, trial: Trial) -> None:
    if not isinstance(backend, Backend):
        raise _fault("id, capabilities, generate, score, infill and aclose", sorted(vars(type(backend))))
    if not isinstance(backend.id, str) or not backend.id or len(backend.id.splitlines()) != 1:
        raise _fault("an id of one line of text", backend.id)
    if not isinstance(backend.capabilities, Capabilities):
        raise _fault("Capabilities", backend.capabilities)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and value in backend.id:
            raise _fault("an id without a secret", f"one that holds the value of ${name}")
    again = trial.open()
    await again.aclose()
    if again.id != backend.id:
        raise _fault(f"the same id whenever it is opened, {backend.id!r:.100}", again.id)
    if redact(backend.id) != backend.id or re.search(r"//[^/@]*:[^/@]*@", backend.id):
        raise _fault("an id without a secret", redact(backend.id))


async def _samples(backend: Backend, trial: Trial) -> None:
    for prompt in range(len(trial.prompts)):
        completions = await draw(backend, trial.request(n=3, prompt=prompt))
        if len(completions) != 3:
            raise _fault("3 completions", completions)
        for completion in completions:
            if not isinstance(completion, Completion) or not isinstance(completion.text, str):
                raise _fault("a Completion", completion)
            if completion.finish_reason not in get_args(FinishReason):
                raise _fault(f"a finish reason of {', '.join(get_args(FinishReason))}", completion.finish_reason)


async def _sample_index(backend: Backend, trial: Trial) -> None:
    if not backend.capabilities.seed:
        raise NotApplicable("it does not claim to honour seeds")
    together = await draw(backend, trial.request(n=5))
    for first in (3, 0, 4, 1, 2):
        (alone,) = await backend.generate(trial.request(first=first))
        if (alone.text, alone.finish_reason) != (together[first].text, together[first].finish_reason):
            raise _fault(f"sample {first} alone to be what it is among five, {together[first].text!r:.100}", alone.text)


async def _stop(backend: Backend, trial: Trial) -> None:
    free = await draw(backend, trial.request(n=4))
    longest = max((c.text for c in free), key=len)
    middle = [letter for letter in longest[len(longest) // 2 :] if not letter.isspace()]
    if len(longest) < 2 or not middle:
        raise NotApplicable(f"completions are too short to be stopped: {longest!r}")
    end = middle[0]
    stopped = await draw(backend, trial.request(n=4, stop=(end,)))
    for whole, cut in zip(free, stopped, strict=True):
        if end in cut.text:
            raise _fault(f"no completion to hold its stop text {end!r}", cut.text)
        if not backend.capabilities.seed:
            continue
        expected = whole.text.partition(end)[0]
        if cut.text != expected:
            raise _fault(f"{whole.text!r:.100} to be cut before {end!r}", cut.text)
        if end in whole.text and cut.finish_reason != "stop":
            raise _fault("finish_reason 'stop' where a stop text ended a completion", cut.finish_reason)


async def _max_tokens(backend: Backend, trial: Trial) -> None:
    for completion in await draw(backend, trial.request(n=3, max_tokens=1)):
        if completion.usage.completion_tokens > 1:
            raise _fault("at most 1 token with max_tokens=1", completion.usage)
        if completion.finish_reason != "length" and len(completion.text.split()) > 1:
            raise _fault("finish_reason 'length', or one word at most, with max_tokens=1", completion)


async def _usage(backend: Backend, trial: Trial) -> None:
    completions = await draw(backend, trial.request(n=3))
    for completion in completions:
        usage = completion.usage
        if not isinstance(usage, Usage):
            raise _fault("a Usage", usage)
        counts = [
            usage.calls,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            usage.cache_hits,
        ]
        if any(not isinstance(count, int) or count < 0 for count in counts):
            raise _fault("counts of 0 or more", usage)
        if usage.cached_tokens > usage.prompt_tokens or usage.reasoning_tokens > usage.completion_tokens:
            raise _fault("cached and reasoning tokens to be among the others", usage)
        if usage.usd is not None and not (math.isfinite(usage.usd) and usage.usd >= 0):
            raise _fault("usd to be a price, or None where it is unknown", usage)
    if sum(c.usage.calls for c in completions) != len(completions):
        raise _fault("usage.calls to count completions", [c.usage.calls for c in completions])
    if backend.capabilities.n and any(c.usage.prompt_tokens for c in completions[1:]):
        raise _fault("a prompt to be counted in its first sample only", [c.usage.prompt_tokens for c in completions])


async def _logprobs(backend: Backend, trial: Trial) -> None:
    claimed = backend.capabilities.logprobs
    try:
        completions = await draw(backend, trial.request(n=2, logprobs=True))
    except CapabilityError as error:
        if claimed:
            raise _fault("log-probabilities, which it claims", error) from error
        return
    for completion in completions:
        if not claimed and completion.logprobs is not None:
            raise _fault("no log-probabilities, or capabilities.logprobs to be true", completion.logprobs)
        if not claimed:
            continue
        if completion.logprobs is None:
            raise _fault("log-probabilities, which it claims", completion)
        _check_logprobs(completion.logprobs)
        text, tokens = ("".join(t.split()) for t in (completion.text, "".join(completion.logprobs.tokens)))
        # Tokens of text that is not ASCII may be bytes; the token that ends a reply may be among them.
        if text.isascii() and tokens.isascii() and not tokens.startswith(text):
            raise _fault(f"tokens that spell the text {completion.text!r:.100}", completion.logprobs.tokens)


def _check_logprobs(value: object) -> None:
    if not isinstance(value, Logprobs) or len(value.tokens) != len(value.logprobs):
        raise _fault("Logprobs with one value per token", value)
    if not all(math.isfinite(p) and p <= _TOLERANCE for p in value.logprobs):
        raise _fault("finite log-probabilities of 0 or less", value.logprobs)


async def _guided(backend: Backend, trial: Trial) -> None:
    kinds = sorted(backend.capabilities.guided)
    if not kinds:
        raise NotApplicable("it does not claim guided output")
    for kind in kinds:
        if kind not in _FORMS:
            raise _fault(f"kinds of guided output of {', '.join(_FORMS)}", kind)
        for completion in await draw(backend, trial.request(n=2, guided=_FORMS[kind])):
            cut = completion.finish_reason != "stop"
            if completion.violation is None and not cut and not _is_of_form(kind, completion.text):
                raise _fault(f"{_FORMS[kind]!r:.100}, or a violation that says what is wrong", completion.text)


def _is_of_form(kind: str, text: str) -> bool:
    if kind == "json":
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False
    return re.fullmatch("[a-c]{2}" if kind == "regex" else "yes|no", text) is not None


async def _score(backend: Backend, trial: Trial) -> None:
    if not backend.capabilities.score:
        await _is_refused(backend.score(trial.prompt(), ["yes"]), "score")
        return
    texts = list(dict.fromkeys(c.text for c in await draw(backend, trial.request(n=4)) if c.text.strip()))
    if not texts:
        raise NotApplicable("all completions are empty, so there is nothing to score")
    scores = await backend.score(trial.prompt(), texts)
    if len(scores) != len(texts):
        raise _fault(f"{len(texts)} scores", scores)
    for score in scores:
        _check_logprobs(score)
        if not score.tokens:
            raise _fault("tokens in the score of a text", score)
    backwards = await backend.score(trial.prompt(), texts[::-1])
    for score, again in zip(scores, reversed(backwards), strict=True):
        if not math.isclose(score.total, again.total, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * 10):
            raise _fault(f"scores in the order of the continuations, {score.total}", again.total)
    try:
        (empty,) = await backend.score(trial.prompt(), [""])
    except LLMProgError:
        return
    if empty.total != 0:
        raise _fault("an empty continuation to be certain, or refused", empty)


async def _infill(backend: Backend, trial: Trial) -> None:
    if not backend.capabilities.infill:
        await _is_refused(backend.infill(Template(trial.prompt(), ("a ", Blank(1))), trial.params), "infill")
        return
    template = trial.template
    if template is None:
        raise NotApplicable("the trial gives no template")
    completions = await backend.infill(template, trial.params, 2)
    if len(completions) != 2:
        raise _fault("2 completions", completions)
    pattern = "".join("(?s:.*)" if isinstance(part, Blank) else re.escape(part) for part in template.parts)
    for completion in completions:
        if not re.fullmatch(pattern, completion.text):
            raise _fault(f"the text of {template.parts!r:.100} with its blanks filled", completion.text)


async def _is_refused(call: Awaitable[object], method: str) -> None:
    try:
        came = await call
    except CapabilityError:
        return
    except Exception as error:  # any other error is what is being looked for
        raise _fault(f"{method} to be refused with CapabilityError, as the capability is not claimed", error) from error
    raise _fault(f"{method} to be refused with CapabilityError, or the capability to be claimed", came)


async def _prefix(backend: Backend, trial: Trial) -> None:
    (whole,) = await backend.generate(trial.request())
    prefix = " ".join(whole.text.split(" ")[: max(1, whole.text.count(" ") // 2)])
    if len(prefix) < 3:
        raise NotApplicable(f"completions are too short to begin one: {whole.text!r}")
    request = trial.request(n=3)
    try:
        completions = await draw(backend, replace(request, prompt=replace(trial.prompt(), prefix=prefix)))
    except CapabilityError as error:
        raise NotApplicable(f"it refuses a prefix: {error}") from error
    if all(completion.text.startswith(prefix) for completion in completions):
        raise _fault("completions that follow the prompt's prefix without repeating it", completions[0].text)


class _Pieces:
    """Puts the pieces of ``n`` completions together."""

    def __init__(self, n: int, *, may_replace: bool) -> None:
        self.texts = [""] * n
        self.reasonings = [""] * n
        self._may_replace = may_replace

    def add(self, delta: Delta) -> None:
        if not isinstance(delta, Delta) or delta.sample not in range(len(self.texts)):
            raise _fault(f"a Delta of a sample from 0 to {len(self.texts) - 1}", delta)
        written = self.reasonings if delta.is_reasoning else self.texts
        if not delta.replaces:
            written[delta.sample] += delta.text
        elif self._may_replace or not delta.text:
            written[delta.sample] = delta.text
            if not delta.text:  # the call is made again from its beginning
                self.texts[delta.sample] = self.reasonings[delta.sample] = ""
        else:
            raise _fault("pieces that follow one another, with capabilities.stream='append'", delta)


async def _stream(backend: Backend, trial: Trial) -> None:
    mode = backend.capabilities.stream
    if not isinstance(backend, StreamingBackend):
        if mode != "none":
            raise _fault(f"a method 'stream', with capabilities.stream={mode!r}", type(backend))
        raise NotApplicable("it does not stream")
    n = 3 if backend.capabilities.n else 1
    pieces = _Pieces(n, may_replace=mode != "append")
    completions = await backend.stream(trial.request(n=n), pieces.add)
    if len(completions) != n:
        raise _fault(f"{n} completions", completions)
    for text, reasoning, completion in zip(pieces.texts, pieces.reasonings, completions, strict=True):
        if text != completion.text:
            raise _fault(f"pieces that make up the text {completion.text!r:.100}", text)
        if reasoning and reasoning != completion.reasoning:
            raise _fault(f"pieces that make up the reasoning {completion.reasoning!r:.100}", reasoning)
    if backend.capabilities.seed:
        whole = await backend.generate(trial.request(n=n))
        if [c.text for c in whole] != [c.text for c in completions]:
            raise _fault(f"a stream to say what generate says, {whole[0].text!r:.100}", completions[0].text)


async def _concurrency(backend: Backend, trial: Trial) -> None:
    requests = [trial.request(first=i, prompt=i) for i in range(_NUM_CONCURRENT)]
    found = await gather_or_cancel(backend.generate(request) for request in requests)
    if any(len(completions) != 1 for completions in found):
        raise _fault("one completion for each of 16 concurrent calls", [len(completions) for completions in found])
    if backend.capabilities.seed:
        for request, completions in list(zip(requests, found, strict=True))[:: _NUM_CONCURRENT // 4]:
            (alone,) = await backend.generate(request)
            if alone.text != completions[0].text:
                raise _fault(
                    f"a call among others to be answered as it is alone, {alone.text!r:.100}", completions[0].text
                )


async def _cancellation(backend: Backend, trial: Trial) -> None:
    before = await draw(backend, trial.request(n=2))
    num_tasks = len(asyncio.all_tasks())
    allowed_s = min(_CANCELLING_S, trial.timeout_s / 4)
    for delay_s in (None, 0.0, 0.001, 0.01, 0.0):
        call = asyncio.ensure_future(draw(backend, trial.request(n=2, prompt=1)))
        if delay_s is not None:
            await asyncio.sleep(delay_s)
        was_running = call.cancel()
        await asyncio.wait([call], timeout=allowed_s)
        if not call.done():
            raise _fault(f"a cancelled call to end within {allowed_s} s", "nothing")
        if was_running and not call.cancelled():
            raise _fault("a cancelled call to raise CancelledError", call.exception() or call.result())
    after = await draw(backend, trial.request(n=2))
    if len(after) != 2 or (backend.capabilities.seed and [c.text for c in after] != [c.text for c in before]):
        raise _fault("the backend to be of use after calls were cancelled", after)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + allowed_s
    while len(tasks := asyncio.all_tasks()) > num_tasks:
        if loop.time() > end_s:
            raise _fault("cancelled calls to leave no tasks behind", sorted(task.get_name() for task in tasks))
        await asyncio.sleep(0.01)


async def _hostile_text(backend: Backend, trial: Trial) -> None:
    asked = trial.prompt()
    last = asked.messages[-1]
    prompt = Prompt((*asked.messages[:-1], replace(last, content=f"{_HOSTILE}\n{last.content}")), asked.prefix)
    try:
        await backend.generate(replace(trial.request(), prompt=prompt))
    except LLMProgError:
        return
    except Exception as error:  # any other error is what is being looked for
        raise _fault(
            "NUL, lone surrogates and control characters to be answered or refused with an LLMProgError", error
        ) from error


async def _closing(backend: Backend, trial: Trial) -> None:
    await backend.generate(trial.request())
    await backend.aclose()
    try:
        await backend.aclose()
    except Exception as error:  # any error is what is being looked for
        raise _fault("closing twice to be harmless", error) from error


def _check(name: str, summary: str, function: Callable[[Backend, Trial], Awaitable[None]]) -> Check:
    return Check(name=name, summary=summary, function=function)


CHECKS: tuple[Check, ...] = (
    _check("identity", "it has the protocol's members and an id of one line that holds no secret", _identity),
    _check("samples", "generate gives as many completions as asked, of the right types", _samples),
    _check("sample_index", "with a seed, sample i is the same however samples are grouped into calls", _sample_index),
    _check("stop", "a stop text ends a completion and is not part of it", _stop),
    _check("max_tokens", "max_tokens is obeyed, and what is cut says so", _max_tokens),
    _check("usage", "usage is plausible and counts a prompt once", _usage),
    _check("logprobs", "log-probabilities come if claimed, are finite and belong to the text", _logprobs),
    _check("guided", "guided output has the form asked for, or says that it has not", _guided),
    _check("score", "scores are finite and in order, or refused", _score),
    _check("infill", "filling blanks keeps the given text, or is refused", _infill),
    _check("prefix", "a prompt's prefix is not repeated in the completion", _prefix),
    _check("stream", "the pieces of a stream make up its completions", _stream),
    _check("concurrency", "sixteen calls at once are answered as one alone", _concurrency),
    _check("cancellation", "a cancelled call ends, leaves nothing behind, and the backend goes on", _cancellation),
    _check("hostile_text", "text that cannot be encoded is refused by an error of llmprog's own", _hostile_text),
    _check("closing", "closing twice is harmless", _closing),
)
