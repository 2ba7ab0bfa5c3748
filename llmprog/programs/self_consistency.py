"""Any question, answered by a vote over many chains of thought: what ``llmprog vote`` runs."""

from __future__ import annotations

from typing import Literal

from llmprog.errors import OptionError
from llmprog.nodes import Checker
from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.catalog import one_of
from llmprog.programs.chains import Asking, Chain, answer_of, explain_unanswered, first_chain, think
from llmprog.programs.votes import Stopping, stopping_rule
from llmprog.search import Controller, SelfConsistency, UniversalSelfConsistency, WeightedVote, most_consistent

VoteKind = Literal["majority", "weighted", "universal"]


def self_consistency(
    *,
    num_samples: int = 40,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    vote: VoteKind = "majority",
    stopping: Stopping = "none",
    confidence: float | None = None,
    window: int | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer any question by self-consistency: sample chains of thought, vote on their answers (Wang et al. 2022).

    A bare arithmetic expression is asked with a worked example, the form that ``local:puzzles`` knows.

    Args:
        num_samples: Chains allowed.
        temperature: Of the chains; a vote needs them to differ.
        max_tokens: Longest chain, in the model's tokens; a chain that is cut there does not vote.
        answer: What votes: ``text`` (what the chain states), ``number`` or ``choice`` (a letter) in it, ``regex`` (the
            last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a chain, such as ``result.value`` (json; default answer).
        vote: ``majority`` counts chains; ``weighted`` weighs them by the mean probability of their tokens, where the
            backend tells it; ``universal`` has the model pick the most consistent chain.
        stopping: ``none`` draws all chains; ``beta`` stops at ``confidence``; ``window`` after a unanimous window
            (majority).
        confidence: Wanted probability that the leader is the true mode (beta; default 0.95).
        window: Chains per window (window; default 5).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question, reasoning and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt; none by default.
    """
    one_of("vote", vote, VoteKind)
    asking = Asking.of(
        "chain", answer=answer, pattern=pattern, path=path, examples=examples, num_examples=num_examples, system=system
    )
    rule = stopping_rule(stopping, confidence, window)
    if rule is not None and vote != "majority":
        raise OptionError(f"stopping={stopping!r} has no effect with vote={vote}; it belongs to vote=majority")
    controller: Controller = SelfConsistency(num_samples=num_samples, stopping=rule)
    checkers: list[Checker] = []
    if vote == "weighted":
        controller = WeightedVote(num_samples=num_samples, weight="logprob")
    elif vote == "universal":
        controller = UniversalSelfConsistency(num_samples=num_samples)
        checkers = [most_consistent(question=_question, response=str, temperature=0.0)]
    return Program(
        name="self_consistency",
        start=first_chain("self_consistency"),
        generators=[think(asking, temperature=temperature, max_tokens=max_tokens, logprobs=vote == "weighted")],
        checkers=checkers,
        controller=controller,
        answer=answer_of,
        explain=explain_unanswered,
    )


def _question(state: Chain) -> str:
    return state.question
