"""The tools program: a model reasons, acts by a tool, and sees what came of it, turn by turn.

The loop of Yao et al. 2022 (ReAct, arXiv 2210.03629), built of combinators: a ``Loop`` whose rounds are a search
for the next action and a ``Branch`` to the tool that it names. Tools are ``Apply`` nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from llmprog.arithmetic import ExpressionError, evaluate, format_number
from llmprog.combinators import Apply, Branch, Loop
from llmprog.combinators import Sequence as InOrder
from llmprog.errors import InputError, OptionError
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.programs.evidence_qa.paragraphs import Paragraph, bundled_paragraphs, read_paragraphs
from llmprog.programs.tools.bm25 import BM25Index
from llmprog.search import BestOfN

_MAX_QUESTION = 20_000
_MAX_REPLY = 10_000
_MAX_ARGUMENT = 500
_ACTION = re.compile(r"^\W*action\W*?\s*(calculate|search|answer)\b\s*(.*)$", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(r"^\W*thought\W*(\w.*)$", re.IGNORECASE | re.MULTILINE)

_RULES = """Answer the question in turns. Each turn of yours has two lines:
Thought: what you need next
Action: one of the following
  calculate[12 * (3 + 4)]  computes exactly
  search[a few words]      finds documents
  answer[the answer]       ends it
After that you are told what came of it.
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: what the model thought, what it did, and what came of it.

    Attributes:
        thought: The model's words.
        action: ``calculate``, ``search``, ``answer``, or ``none`` where the reply names no action.
        argument: What is in the brackets.
        observation: What came of it; empty until the tool was used.
    """

    thought: str
    action: str
    argument: str
    observation: str = ""

    def __str__(self) -> str:
        return f"{self.action}[{self.argument}]" + (f" -> {self.observation}" if self.observation else "")


@dataclass(frozen=True, slots=True)
class Trace:
    """A question, the turns so far, and the answer once there is one."""

    question: str
    turns: tuple[Turn, ...] = ()
    answer: str | None = None

    def __str__(self) -> str:
        return str(self.turns[-1]) if self.turns else self.question


def parse_question(text: str) -> Trace:
    """The question, before any turn.

    Raises:
        InputError: It is empty or too long.
    """
    question = " ".join(str(text).split())
    if not 1 <= len(question) <= _MAX_QUESTION:
        raise InputError(f"tools: a question of {len(question)} characters; allowed are 1 to {_MAX_QUESTION}")
    return Trace(question)


def read_turn(reply: str) -> Turn:
    """The first turn in a reply; one whose action is ``none`` where it names none."""
    reply = reply[:_MAX_REPLY]
    found = _ACTION.search(reply)
    said = _THOUGHT.search(reply if found is None else reply[: found.start()])
    thought = said[1].strip()[:_MAX_ARGUMENT] if said else ""
    if found is None:
        return Turn(thought, "none", "")
    argument = found[2].strip().lstrip(":").strip()
    if argument[:1] in ("[", "("):
        closing = argument.rfind({"[": "]", "(": ")"}[argument[0]])
        argument = argument[1 : closing if closing > 0 else None].strip()
    return Turn(thought, found[1].lower(), argument[:_MAX_ARGUMENT])


def calculate(expression: str) -> str:
    """The exact value of an expression, or in words why it has none; text is never evaluated as code."""
    try:
        return format_number(evaluate(expression))
    except ExpressionError as error:
        return f"cannot be computed: {error}"


def search_documents(documents: Sequence[Paragraph], limit: int = 2) -> Callable[[str], str]:
    """A function from a few words to the documents they are about, by BM25."""
    index = BM25Index([document.text for document in documents])

    def search(words: str) -> str:
        """The best documents for ``words``, each on a line after its id."""
        found = index.search(words, limit)
        return "\n".join(str(documents[number]) for number, _ in found) or "no document holds one of these words"

    return search


def _observed(trace: Trace, observation: str) -> Trace:
    *before, last = trace.turns
    return replace(trace, turns=(*before, replace(last, observation=observation)))


def _tool(name: str, function: Callable[[str], str]) -> Program:
    """A tool as a part: what it says of the last turn's argument is that turn's observation."""

    def use(trace: Trace) -> Trace:
        return _observed(trace, function(trace.turns[-1].argument))

    return Apply(use, name=name)


def _conclude(trace: Trace) -> Trace:
    argument = trace.turns[-1].argument
    return (
        replace(trace, answer=argument) if argument else _observed(trace, "the answer is missing: answer[the answer]")
    )


def _remind(trace: Trace) -> Trace:
    return _observed(trace, "no action was found; write one, such as Action: search[a few words]")


def _tool_of(trace: Trace) -> str:
    action = trace.turns[-1].action
    return {"answer": "conclude", "none": "remind"}.get(action, action)


def _has_new_turn(trace: Trace) -> bool:
    return bool(trace.turns) and not trace.turns[-1].observation


def _has_answer(trace: Trace) -> bool:
    return trace.answer is not None


def _answer(trace: Trace) -> str | None:
    return trace.answer


def transcript(trace: Trace) -> str:
    """What the model is shown: the rules, the question, the turns so far."""
    lines = [f"Question: {trace.question}"]
    for turn in trace.turns:
        lines += [f"Thought: {turn.thought}", f"Action: {turn.action}[{turn.argument}]", f"Result: {turn.observation}"]
    return f"{_RULES}\n" + "\n".join(lines) + "\n"


def tools(
    *,
    documents: str | None = None,
    num_documents: int = 2,
    max_rounds: int = 6,
    temperature: float = 0.7,
    max_tokens: int = 200,
) -> Program:
    """Answer a question with a calculator and a search over documents: reason, act, observe, again.

    Args:
        documents: File of documents (.jsonl, .json, or text with blank lines between them); the bundled ones if none.
        num_documents: Documents that a search shows.
        max_rounds: Turns at most, that of the answer included.
        temperature: Of the turns.
        max_tokens: Longest turn, in the model's tokens.
    """
    if num_documents < 1:
        raise OptionError(f"num_documents={num_documents!r}; allowed is a whole number >= 1")
    known = bundled_paragraphs() if documents is None else read_paragraphs(documents)

    @generator(prompt=transcript, name="think", temperature=temperature, max_tokens=max_tokens, stop="Result:")
    def think(state: Trace, completion: str) -> Iterable[Trace]:
        return [replace(state, turns=(*state.turns, read_turn(completion)))]

    act = Branch(
        _tool_of,
        {
            "calculate": _tool("calculate", calculate),
            "search": _tool("search", search_documents(known, num_documents)),
            "conclude": Apply(_conclude),
            "remind": Apply(_remind),
        },
        name="act",
    )
    # A reply that is cut at its longest is a turn, too: what it lacks is said of it in the next.
    reason = Program(generators=[think], controller=BestOfN(num_samples=1), goal=_has_new_turn, name="reason")
    turn = InOrder(reason, act, name="turn")
    return InOrder(
        Apply(parse_question, name="question"),
        Loop(turn, until=_has_answer, max_rounds=max_rounds, name="turns"),
        Apply(_answer, name="result"),
        name="tools",
    )
