"""Any question, answered after reasoning step by step: one chain of thought, or a vote over several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llmprog.errors import InputError
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.search import BestOfN, SelfConsistency
from llmprog.types import Prompt

_MAX_QUESTION = 100_000
_MAX_REPLY = 1_000_000  # the end of a longer reply is what is read
_MAX_ANSWER = 4096  # what is longer is no answer
_MAX_WRAPPERS = 16  # around one another

_INSTRUCTION = (
    "Answer the question below. Reason step by step, then end your reply with one line of the form\n"
    "Answer: <the answer alone>"
)
# Markdown around the words (**Answer:** 42, ### Final answer: 42, > *Answer*: 42) is no part of the answer.
_MARKS = r"[\s*_#>`~-]*"
_STATED = re.compile(
    rf"^{_MARKS}(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?answer{_MARKS}[:：=](?P<answer>.*)$", re.IGNORECASE
)
_SENTENCE = re.compile(r"\banswer\b[^.:=?!]{0,80}?\s(?:is|was|=)\s*:?\s+(?P<answer>\S.*)$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"[\s.…_?]*|[<\[(].*\banswer\b.*[>\])]", re.IGNORECASE)
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\{|\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{(?P<inner>[^{}]*)\}")
_WRAPPERS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"),
             (r"\[", r"\]"), ('"', '"'), ("“", "”"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chain:
    """A question, and one chain of thought about it.

    Attributes:
        question: What was asked.
        reasoning: The chain, answer included; empty before the first call.
        answer: What the chain states as its answer; ``None`` if it states none.
    """

    question: str
    reasoning: str = ""
    answer: str | None = None

    def __str__(self) -> str:
        return self.reasoning or self.question


def parse_question(text: str) -> Chain:
    """The question as a first state.

    Raises:
        InputError: It is empty or too long.
    """
    question = str(text).strip()
    if not question or len(question) > _MAX_QUESTION:
        raise InputError(
            f"chain_of_thought: a question of {len(question)} characters; allowed are 1 to {_MAX_QUESTION}, "
            "such as 'How many legs have three dogs?'"
        )
    return Chain(question)


def ask_for_chain(question: str, system: str | None = None) -> Prompt:
    """What a model is asked for a chain of thought about ``question``, and a last line with the answer alone."""
    return Prompt.from_text(f"{_INSTRUCTION}\n\nQuestion: {question}", system=system)


def stated_answer(reply: str) -> str | None:
    r"""The answer that a reply states, ``None`` if it states none.

    It is what follows ``Answer:`` on the last line that begins so, or the line after it; else the last ``\boxed{…}``;
    else what follows ``answer is``, or ``answer to … is``, on the last line. Markdown, LaTeX and a final full stop
    around it are dropped.
    """
    lines = [line.strip() for line in reply[-_MAX_REPLY:].splitlines()]
    lines = [line for line in lines if line and line.strip("*_#>`~- $[]\\")]
    for place in range(len(lines) - 1, -1, -1):
        if found := _STATED.match(lines[place]):
            below = lines[place + 1] if place + 1 < len(lines) else ""
            return _bare(found["answer"]) or _bare(below)
    boxed = [match for line in lines for match in [_boxed(line)] if match is not None]
    if boxed:
        return _bare(boxed[-1])
    found = _SENTENCE.search(lines[-1]) if lines else None
    return _bare(found["answer"]) if found else None


def _bare(text: str) -> str | None:
    """An answer without what surrounds it; ``None`` where nothing is left, or only the form that was to be filled."""
    text = text.strip()
    if len(text) > _MAX_ANSWER:
        return None
    for _ in range(_MAX_WRAPPERS):
        inner = _unwrapped(text).strip()
        if inner == text:
            break
        text = inner
    return None if _PLACEHOLDER.fullmatch(text) else text


def _unwrapped(text: str) -> str:
    """``text`` without the outermost of what surrounds it."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    if found := _TEXT.fullmatch(text):
        return found["inner"]
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1]
    for start, end in _WRAPPERS:
        if len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end):
            inside = text[len(start) : -len(end)]
            if start not in inside and end not in inside:
                return inside
    # What was opened before the word "Answer" is closed after it, as in **Answer:** 42 and **Answer: 42**.
    for mark in ("**", "__", "*", "_", "`"):
        if text.count(mark) == 1:
            return text.removeprefix(mark).removesuffix(mark)
    return text


def _boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` of a text holds."""
    opened: list[int] = []  # where what a box holds begins; -1 for other braces
    last = None
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if match["box"] else -1)
        elif opened and (start := opened.pop()) >= 0:
            last = (start, match.start())
    return None if last is None else text[slice(*last)]


def chain_of_thought(
    *,
    num_samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    system: str | None = None,
) -> Program:
    """Answer any question by a chain of thought (Wei et al. 2022), or by a vote over several.

    Args:
        num_samples: Chains; 1 is a plain chain of thought, more are put to the vote by self-consistency.
        temperature: Of the chains; a vote needs them to differ.
        max_tokens: Longest chain, in the model's tokens; a chain that is cut there has no answer.
        system: A system prompt; none by default.
    """

    def ask(state: Chain) -> Prompt:
        return ask_for_chain(state.question, system)

    @generator(prompt=ask, name="think", temperature=temperature, max_tokens=max_tokens)
    def think(state: Chain, completion: str) -> Iterable[Chain]:
        return [Chain(state.question, completion, stated_answer(completion))]

    return Program(
        name="chain_of_thought",
        start=parse_question,
        generators=[think],
        controller=BestOfN(num_samples=1) if num_samples == 1 else SelfConsistency(num_samples=num_samples),
        answer=_answer,
        explain=explain_unanswered,
    )


def _answer(state: Chain) -> str | None:
    return state.answer


def explain_unanswered(state: Chain) -> str:
    """Why no chain gave an answer."""
    return (
        "no chain ended with a line 'Answer: …' within max_tokens; what the model wrote is in the graph; "
        "raise max_tokens or num_samples, or use a larger model"
    )
