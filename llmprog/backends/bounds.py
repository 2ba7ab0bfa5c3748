"""The most a call can cost, known before it is sent, and what it did cost where its answer does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from llmprog.accounting import Question
from llmprog.backends.base import Backend
from llmprog.errors import OptionError
from llmprog.types import Blank, Completion, JsonSchema, Logprobs, Prompt, Scoring, Template, Usage, total_usage

# Chat templates add words of their own to each message, and some a system message where there is none.
_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_CHAT = 64


@runtime_checkable
class PricedBackend(Protocol):
    """A backend whose prices are known; a budget in dollars needs one."""

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The most a call of that size can cost in US dollars; ``None`` where the price is unknown."""
        ...


def most_usage(backend: Backend, question: Question) -> Usage:
    """The most that one completion (or the scoring of all continuations) can cost.

    Tokens of the prompt are counted as bytes of its text, which no tokenizer in use exceeds, and what chat templates
    add. ``usd`` is ``None`` where the backend's price is unknown.
    """
    if isinstance(question, Scoring):
        prompt = sum(_num_bytes(question.prompt) + _size(text) for text in question.continuations)
        calls, completion = 1, 0
    else:
        asked = question.prompt
        calls, completion = 1, question.params.max_tokens
        prompt = _num_bytes(asked.prompt if isinstance(asked, Template) else asked)
        if isinstance(asked, Template):
            prompt += sum(_size(part) for part in asked.parts if isinstance(part, str))
            completion = max(completion, sum(part.num_tokens for part in asked.parts if isinstance(part, Blank)))
        if isinstance(question.params.guided, JsonSchema):
            prompt += _size(question.params.guided.schema)
    usd = backend.most_usd(prompt, completion) if isinstance(backend, PricedBackend) else None
    return Usage(calls, prompt, completion, usd)


def times(each: Usage, count: int) -> Usage:
    """``count`` times ``each``."""
    usd = None if each.usd is None else each.usd * count
    return Usage(each.calls * count, each.prompt_tokens * count, each.completion_tokens * count, usd)


def refuse_unpriced(backend: Backend) -> None:
    """Refuse a budget in dollars for a backend whose price is unknown.

    Raises:
        OptionError: It is.
    """
    if not isinstance(backend, PricedBackend) or backend.most_usd(1, 1) is None:
        raise OptionError(
            f"budget: usd is limited, but the price of backend {backend.id!r} is unknown; give prices in a file "
            "(--set prices=FILE), or limit calls or tokens instead"
        )


def usage_of_answers(question: Question, answers: Sequence[Completion] | Sequence[Logprobs], bound: Usage) -> Usage:
    """What a call cost; what its answer does not say, at its ``bound``."""
    if isinstance(question, Scoring):
        return bound
    completions = [answer for answer in answers if isinstance(answer, Completion)]
    said = total_usage(completions)
    is_counted = said.completion_tokens or not any(c.text or c.reasoning for c in completions)
    return replace(
        said,
        calls=len(completions),
        prompt_tokens=said.prompt_tokens or bound.prompt_tokens,
        completion_tokens=said.completion_tokens if is_counted else bound.completion_tokens,
        usd=said.usd if said.usd is not None else bound.usd,
    )


def _num_bytes(prompt: Prompt) -> int:
    size = sum(_size(m.content) + _TOKENS_PER_MESSAGE for m in prompt.messages)
    return size + _size(prompt.prefix) + _TOKENS_PER_CHAT


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
