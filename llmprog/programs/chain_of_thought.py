"""Any question, answered after reasoning step by step: one chain of thought, or a vote over several."""

from __future__ import annotations

from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.chains import Asking, answer_of, explain_unanswered, first_chain, think
from llmprog.search import BestOfN, SelfConsistency


def chain_of_thought(
    *,
    num_samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer any question by a chain of thought (Wei et al. 2022), or by a vote over several.

    A bare arithmetic expression is asked with a worked example, the form that ``local:puzzles`` knows.

    Args:
        num_samples: Chains; 1 is a plain chain of thought, more are put to the vote by self-consistency.
        temperature: Of the chains; a vote needs them to differ.
        max_tokens: Longest chain, in the model's tokens; a chain that is cut there has no answer.
        answer: What is read: ``text`` (what the chain states), ``number`` or ``choice`` (a letter) in it, ``regex``
            (the last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a chain, such as ``result.value`` (json; default answer).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question, reasoning and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt; none by default.
    """
    asking = Asking.of(
        "chain", answer=answer, pattern=pattern, path=path, examples=examples, num_examples=num_examples, system=system
    )
    return Program(
        name="chain_of_thought",
        start=first_chain("chain_of_thought"),
        generators=[think(asking, temperature=temperature, max_tokens=max_tokens)],
        controller=BestOfN(num_samples=1) if num_samples == 1 else SelfConsistency(num_samples=num_samples),
        answer=answer_of,
        explain=explain_unanswered,
    )
