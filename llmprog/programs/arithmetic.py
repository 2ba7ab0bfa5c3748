"""Multi-step arithmetic questions: a chain of thought, and a vote over many chains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from llmprog.arithmetic import ExpressionError, canonical_number, parse
from llmprog.errors import InputError
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.programs.votes import Stopping, stopping_rule
from llmprog.search import SelfConsistency

WORKED_EXAMPLE = (
    "Answer the question. Work it out step by step, one step per line, then give the result.\n\n"
    "Question: What is 2 * (3 + 4)?\nReasoning:\n3 + 4 = 7\n2 * 7 = 14\nAnswer: 14\n\n"
    "Question: {question}\nReasoning:\n"
)
"""How an arithmetic question is asked."""

_ANSWER = re.compile(r"answer\s*(?:is|:)\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_MAX_QUESTION = 2000


@dataclass(frozen=True, slots=True)
class Chain:
    """A question, and one chain of thought about it.

    Attributes:
        question: What was asked.
        reasoning: The chain, answer included; empty before the first call.
        answer: The number the chain ends with.
    """

    question: str
    reasoning: str = ""
    answer: Fraction | None = None

    def __str__(self) -> str:
        return self.reasoning or self.question


def parse_question(text: str) -> Chain:
    """A question from plain words or from a bare expression.

    Raises:
        InputError: It is empty or too long.
    """
    question = " ".join(str(text).split())
    if not question or len(question) > _MAX_QUESTION:
        raise InputError(
            f"arithmetic: a question of {len(question)} characters; "
            f"allowed are 1 to {_MAX_QUESTION}, such as '(17 + 25) * 3 - 40'"
        )
    try:
        return Chain(f"What is {parse(question.rstrip('=? '))}?")
    except ExpressionError:
        return Chain(question)


@generator(prompt=WORKED_EXAMPLE, name="chain_of_thought", max_tokens=200)
def think(state: Chain, completion: str) -> Iterable[Chain]:
    """The chain with its last stated answer; a chain without one does not vote."""
    found = _ANSWER.findall(completion)
    answer = canonical_number(found[-1]) if found else None
    return [Chain(state.question, completion, answer)]


def arithmetic(
    *,
    num_samples: int = 20,
    temperature: float = 0.7,
    stopping: Stopping = "none",
    confidence: float | None = None,
    window: int | None = None,
) -> Program:
    """Answer an arithmetic question by self-consistency over chains of thought.

    Args:
        num_samples: Chains allowed; 1 is plain chain of thought.
        temperature: Of the chains; a vote needs them to differ.
        stopping: ``none`` draws all chains; ``beta`` stops at ``confidence``; ``window`` after a unanimous window.
        confidence: Wanted probability that the leader is the true mode (beta; default 0.95).
        window: Chains per window (window; default 5).
    """
    return Program(
        name="arithmetic",
        start=parse_question,
        generators=[think.with_options(temperature=temperature)],
        controller=SelfConsistency(num_samples=num_samples, stopping=stopping_rule(stopping, confidence, window)),
        answer=_answer,
    )


def _answer(state: Chain) -> Fraction | None:
    return state.answer
