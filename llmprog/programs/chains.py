"""Questions and what a model writes about them: what programs that answer any question have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmprog.arithmetic import ExpressionError, parse
from llmprog.backends.remote.protocols.reasoning import split_reasoning
from llmprog.errors import InputError, OptionError
from llmprog.nodes import Generator, generator
from llmprog.programs.answers import AnswerForm, Reader, answer_reader, json_form
from llmprog.programs.arithmetic import WORKED_EXAMPLE
from llmprog.programs.examples import Example, read_examples
from llmprog.templates import render
from llmprog.types import Completion, Message, Prompt

Style = Literal["chain", "direct"]

_MAX_QUESTION = 100_000
_INSTRUCTIONS = {
    "chain": "Answer the question below. Reason step by step, then end your reply with ",
    "direct": "Answer the question below, without any reasoning. Your whole reply is ",
}
_EXPRESSION = re.compile(
    r"\s*(?:what is|calculate|compute)?\s*:?(?P<expression>[^a-z]*[-+*/×÷−][^a-z]*?)[\s=?.]*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Chain:
    """A question, and one reply to it.

    Attributes:
        question: What was asked.
        reasoning: The reply, answer included; empty before the first call.
        answer: What the reply states as its answer; ``None`` if it states none.
        thinking: What a reasoning model thought aloud before its reply, which holds no answer.
        gold: The right answer, for checkers that are given it; no model is shown it.
    """

    question: str
    reasoning: str = ""
    answer: str | None = None
    thinking: str = ""
    gold: str | None = None

    def __str__(self) -> str:
        return self.reasoning or self.question


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How questions are asked, and how answers are read.

    Attributes:
        style: ``chain`` asks for reasoning before the answer; ``direct`` for the answer alone.
        read: Reads the answer of a reply.
        form: What the model is told to end with; ``json`` or any other.
        path: Where the answer is in JSON, for the model to be told.
        examples: Worked examples that come first.
        system: A system prompt.
    """

    style: Style
    read: Reader
    form: AnswerForm = "text"
    path: str = ""
    examples: tuple[Example, ...] = ()
    system: str | None = None

    @classmethod
    def of(
        cls,
        style: Style,
        *,
        answer: AnswerForm = "text",
        pattern: str | None = None,
        path: str | None = None,
        examples: str | None = None,
        num_examples: int | None = None,
        system: str | None = None,
    ) -> Asking:
        """From the settings of a program.

        Raises:
            OptionError: They do not fit together.
            InputError: The examples cannot be read.
        """
        if examples is None and num_examples is not None:
            raise OptionError(f"num_examples={num_examples} has no effect without examples=FILE")
        shots = () if examples is None else read_examples(examples, num_examples)
        read = answer_reader(answer, pattern=pattern, path=path)
        return cls(style=style, read=read, form=answer, path=path or "answer", examples=shots, system=system)

    @property
    def instruction(self) -> str:
        """What a model is told to do with the question."""
        return _INSTRUCTIONS[self.style] + self.ending

    @property
    def ending(self) -> str:
        """What a reply is to end with, in words and by its form."""
        if self.form == "json":
            return f"JSON of the form\n{json_form(self.path, '…')}"
        return "one line of the form\nAnswer: <the answer alone>"

    def prompt(self, question: str) -> Prompt:
        """What a model is asked.

        Where reasoning is wanted, a bare arithmetic expression is asked in the form that ``local:puzzles`` knows.
        """
        expression = as_expression(question) if self.style == "chain" else None
        if expression is None:
            asked = f"Question: {question}"
        elif self.examples:
            asked = f"Question: What is {expression}?\nReasoning:\n"
        else:
            asked = render(WORKED_EXAMPLE, {"question": f"What is {expression}?"})
        turns = [text for example in self.examples for text in self._turns(example)]
        turns.append(asked)
        if expression is None or self.examples:
            turns[0] = f"{self.instruction}\n\n{turns[0]}"
        messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(turns)]
        if self.system is not None:
            messages.insert(0, Message("system", self.system))
        return Prompt(tuple(messages))

    def _turns(self, example: Example) -> tuple[str, str]:
        """An example as a question and the reply to it."""
        end = json_form(self.path, example.answer) if self.form == "json" else f"Answer: {example.answer}"
        shows_steps = self.style == "chain" and example.reasoning
        return f"Question: {example.question}", f"{example.reasoning}\n{end}" if shows_steps else end

    def parts_of(self, completion: Completion) -> tuple[str, str, str | None]:
        """A completion as the reply, what the model thought before it, and the answer that the reply states.

        A reply that was cut at ``max_tokens`` has no answer.
        """
        reply, thinking = split_reasoning(completion.text)
        if completion.finish_reason != "stop":
            return reply, completion.reasoning or thinking or "", None
        answer = self.read(reply)
        if answer is None and self.style == "direct" and len(reply.strip().splitlines()) == 1:
            answer = self.read(f"Answer: {reply}")  # the answer alone is what was asked for
        return reply, completion.reasoning or thinking or "", answer


def think(asking: Asking, **sampling: Any) -> Generator:
    """A generator of chains about a question; ``sampling`` is that of ``generator``."""

    def ask(state: Chain) -> Prompt:
        return asking.prompt(state.question)

    @generator(prompt=ask, name="think", **sampling)
    def think_once(state: Chain, completion: Completion) -> Sequence[Chain]:
        reply, thinking, answer = asking.parts_of(completion)
        return [Chain(state.question, reply, answer, thinking, state.gold)]

    return think_once


def first_chain(program: str) -> Callable[[str], Chain]:
    """What makes the first state of a program from a question."""

    def start(text: str) -> Chain:
        return parse_question(text, program)

    return start


def parse_question(text: str, program: str = "chain_of_thought") -> Chain:
    """The question as a first state.

    Args:
        text: The question.
        program: Who is asked, for the message.

    Raises:
        InputError: It is empty or too long.
    """
    question = str(text).strip()
    if not question or len(question) > _MAX_QUESTION:
        raise InputError(
            f"{program}: a question of {len(question)} characters; allowed are 1 to {_MAX_QUESTION}, "
            "such as 'How many legs have three dogs?'"
        )
    return Chain(question)


def as_expression(question: str) -> str | None:
    """The arithmetic expression that a question consists of, ``None`` where it is more or something else."""
    found = _EXPRESSION.fullmatch(question)
    if found is None:
        return None
    try:
        return str(parse(found["expression"]))
    except ExpressionError:
        return None


def answer_of(state: Chain) -> str | None:
    """The answer of a chain."""
    return state.answer


def explain_unanswered(state: Chain) -> str:
    """Why no chain gave an answer."""
    return (
        "no chain ended with a line 'Answer: …' within max_tokens; what the model wrote is in the graph; "
        "raise max_tokens or num_samples, or use a larger model"
    )
