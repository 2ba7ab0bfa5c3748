"""Chains of thought that one model drafts and another verifies: a diffusion model, say, and a left-to-right one.

A diffusion model writes many tokens in one pass, and cannot say how likely a whole text is. A model that writes from
left to right can, in one pass over the text. So it picks the likeliest of several drafts, and writes anew only what
follows the first line it doubts. ``drafter``, ``verifier`` and ``corrector`` are nodes for programs of your own, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator, Model, Verdict, checker, generator
from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.chains import Asking, Chain, answer_of, explain_unanswered, first_chain, think
from llmprog.search import Generate, GraphOfThoughts, KeepBest, OperationGraph, Score
from llmprog.search.operations import Operation
from llmprog.types import Logprobs, Prompt

Method = Literal["select", "correct"]


def draft_and_verify(
    *,
    num_samples: int = 4,
    method: Method = "select",
    threshold: float | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer a question by chains that one model drafts and another verifies and corrects.

    The nodes are ``draft``, ``verify`` and ``correct``; the last two need a model that tells likelihoods. So
    ``backend={"draft": a diffusion model, "default": a left-to-right one}``.

    Args:
        num_samples: Drafts.
        method: ``select``: the draft that the verifier finds likeliest; ``correct``: the same, and from the first line
            on that holds a token it finds unlikely the verifier writes on itself.
        threshold: How likely every token of a line must be for the line to be kept, in [0, 1] (correct; default 0.1).
        temperature: Of drafts; corrections are the verifier's likeliest text.
        max_tokens: Longest draft, in the model's tokens.
        answer: What is read: ``text`` (what the chain states), ``number`` or ``choice`` (a letter) in it, ``regex``
            (the last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a chain, such as ``result.value`` (json; default answer).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question, reasoning and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt; none by default.
    """
    one_of("method", method, Method)
    least = for_method("threshold", threshold, method, {"correct": 0.1})
    if least is not None and not 0 <= least <= 1:
        raise OptionError(f"threshold={least}; allowed is a probability in [0, 1]")
    asking = Asking.of(
        "chain", answer=answer, pattern=pattern, path=path, examples=examples, num_examples=num_examples, system=system
    )

    def ask(state: Chain) -> Prompt:
        return asking.prompt(state.question)

    nodes = [drafter(asking, temperature=temperature, max_tokens=max_tokens)]
    plan: dict[str, Operation] = {
        "draft": Generate(generator="draft", num_samples=num_samples),
        "verify": Score(checkers=("verify",)),
        "likeliest": KeepBest(),
    }
    if least is not None:
        nodes.append(corrector(asking, least, temperature=0.0, max_tokens=max_tokens))
        plan["correct"] = Generate(generator="correct")
    return Program(
        name="draft_and_verify",
        start=first_chain("draft_and_verify"),
        generators=nodes,
        checkers=[verifier(ask, _reply)],
        controller=GraphOfThoughts(operations=OperationGraph(plan)),
        answer=answer_of,
        explain=explain_unanswered,
    )


def drafter(asking: Asking, **sampling: Any) -> Generator:
    """The generator ``draft``: chains of thought, as every other program asks for them."""
    node: Generator = think(asking, **sampling).with_options(name="draft")
    return node


def verifier(prompt: Callable[[Any], Prompt], text: Callable[[Any], str], name: str = "verify") -> Checker:
    """A checker whose score is how likely its model finds a text: the log-probability, given the prompt.

    Args:
        prompt: What the text answers, from a state.
        text: The text, from a state.
        name: As for ``checker``.
    """

    @checker(name=name)
    async def verify(state: Any, model: Model) -> Verdict:
        (found,) = await model.score(prompt(state), [text(state)])
        least = min(found.logprobs, default=0.0)
        return Verdict(score=found.total, reason=f"its least likely token has a probability of {math.exp(least):.2g}")

    return verify


def corrector(asking: Asking, threshold: float, **sampling: Any) -> Generator:
    """The generator ``correct``: a draft whose lines are kept up to the first with a token below ``threshold``.

    The model writes what follows. A draft that it does not doubt stays as it is.
    """

    @generator(name="correct", **sampling)
    async def correct(state: Chain, model: Model) -> Sequence[Chain]:
        asked = asking.prompt(state.question)
        (found,) = await model.score(asked, [state.reasoning])
        kept = certain_lines(state.reasoning, found, threshold)
        if kept == state.reasoning:
            return [state]
        (completion,) = await model.generate(replace(asked, prefix=kept))
        reply, _, answer = asking.parts_of(replace(completion, text=kept + completion.text))
        return [replace(state, reasoning=reply, answer=answer)]

    return correct


def certain_lines(text: str, logprobs: Logprobs, threshold: float) -> str:
    """The lines of a text before the first that holds a token less likely than ``threshold``; all where none does.

    Args:
        text: The text.
        logprobs: Of its tokens, in their order; what they look like may differ from the text in spaces.
        threshold: A probability.
    """
    place = 0
    for token, logprob in zip(logprobs.tokens, logprobs.logprobs, strict=True):
        found = text.find(token.strip(), place) if token.strip() else -1
        if logprob < (math.log(threshold) if threshold else -math.inf):
            return text[: text.rfind("\n", 0, max(place, found)) + 1]
        if found >= 0:
            place = found + len(token.strip())
    return text


def _reply(state: Chain) -> str:
    return state.reasoning
