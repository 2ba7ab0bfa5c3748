"""Any question, answered at once: what input-output prompting gives, to compare the other programs with."""

from __future__ import annotations

from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.chains import Asking, Chain, answer_of, first_chain, think
from llmprog.search import BestOfN


def io(
    *,
    temperature: float = 0.7,
    max_tokens: int = 256,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer any question at once, without reasoning.

    Args:
        temperature: Of the reply.
        max_tokens: Longest reply, in the model's tokens; one that is cut there has no answer.
        answer: What is read: ``text`` (what the reply states), ``number`` or ``choice`` (a letter) in it, ``regex``
            (the last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a reply, such as ``result.value`` (json; default answer).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt; none by default.
    """
    asking = Asking.of(
        "direct",
        answer=answer,
        pattern=pattern,
        path=path,
        examples=examples,
        num_examples=num_examples,
        system=system,
    )
    return Program(
        name="io",
        start=first_chain("io"),
        generators=[think(asking, temperature=temperature, max_tokens=max_tokens)],
        controller=BestOfN(num_samples=1),
        answer=answer_of,
        explain=_explain,
    )


def _explain(state: Chain) -> str:
    return (
        "the reply states no answer in the form asked for, or was cut at max_tokens; what the model wrote is in the "
        "graph; give examples, raise max_tokens, or let it reason first (chain_of_thought)"
    )
