"""Any question, answered by a vote over many chains of thought: what ``llmprog vote`` runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from llmprog.arithmetic import ExpressionError, canonical_number, parse
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.programs.arithmetic import WORKED_EXAMPLE
from llmprog.programs.catalog import one_of
from llmprog.programs.chain_of_thought import (
    Chain,
    ask_for_chain,
    explain_unanswered,
    parse_question,
    stated_answer,
)
from llmprog.programs.votes import Stopping, stopping_rule
from llmprog.search import SelfConsistency
from llmprog.templates import render
from llmprog.types import Prompt

AnswerForm = Literal["text", "number", "choice"]

_EXPRESSION = re.compile(
    r"\s*(?:what is|calculate|compute)?\s*:?(?P<expression>[^a-z]*[-+*/×÷−][^a-z]*?)[\s=?.]*", re.IGNORECASE
)
_NUMBER = re.compile(r"[-−+]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:[).:].*)?", re.DOTALL)


def self_consistency(
    *,
    num_samples: int = 40,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    answer: AnswerForm = "text",
    stopping: Stopping = "none",
    confidence: float | None = None,
    window: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer any question by self-consistency: sample chains of thought, vote on their answers (Wang et al. 2022).

    A bare arithmetic expression is asked with a worked example, the form that ``local:puzzles`` knows.

    Args:
        num_samples: Chains allowed.
        temperature: Of the chains; a vote needs them to differ.
        max_tokens: Longest chain, in the model's tokens; a chain that is cut there does not vote.
        answer: What votes: ``text`` (what the chain states as its answer), ``number`` or ``choice`` (a letter) in it.
        stopping: ``none`` draws all chains; ``beta`` stops at ``confidence``; ``window`` after a unanimous window.
        confidence: Wanted probability that the leader is the true mode (beta; default 0.95).
        window: Chains per window (window; default 5).
        system: A system prompt; none by default.
    """
    one_of("answer", answer, AnswerForm)
    read = _READERS[answer]

    def ask(state: Chain) -> Prompt:
        expression = as_expression(state.question)
        if expression is not None:
            asked = render(WORKED_EXAMPLE, {"question": f"What is {expression}?"})
            return Prompt.from_text(asked, system=system)
        return ask_for_chain(state.question, system)

    @generator(prompt=ask, name="think", temperature=temperature, max_tokens=max_tokens)
    def think(state: Chain, completion: str) -> Iterable[Chain]:
        return [Chain(state.question, completion, read(completion))]

    return Program(
        name="self_consistency",
        start=parse_question,
        generators=[think],
        controller=SelfConsistency(num_samples=num_samples, stopping=stopping_rule(stopping, confidence, window)),
        answer=_answer,
        explain=explain_unanswered,
    )


def as_expression(question: str) -> str | None:
    """The arithmetic expression that a question consists of, ``None`` where it is more or something else."""
    found = _EXPRESSION.fullmatch(question)
    if found is None:
        return None
    try:
        return str(parse(found["expression"]))
    except ExpressionError:
        return None


def stated_number(reply: str) -> str | None:
    """The last number of the answer that a reply states, or of its last line where it states none."""
    stated = stated_answer(reply)
    if stated is not None and canonical_number(stated) is not None:
        return stated
    lines = reply.split("\n")
    text = stated if stated is not None else next((line for line in reversed(lines) if line.strip()), "")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def stated_choice(reply: str) -> str | None:
    """The letter of the choice that a reply states: ``B`` for ``B``, ``(b)`` and ``B. Paris``."""
    found = _CHOICE.fullmatch(stated_answer(reply) or "")
    return found[1].upper() if found else None


_READERS: Mapping[str, Callable[[str], str | None]] = {
    "text": stated_answer,
    "number": stated_number,
    "choice": stated_choice,
}


def _answer(state: Chain) -> str | None:
    return state.answer
