"""The evidence_qa program: find the paragraphs that a question is about, reason from them, and answer with sources.

Schlag et al. 2023 (arXiv 2305.05364): paragraphs are ranked by the likelihood of the question; then a tree search over
reasoning steps, in which each alternative step is conditioned on another paragraph. Here a step's score is how much
likelier its paragraph makes it, and of the finished chains those that agree decide.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator, Model, Verdict, checker, generator
from llmprog.parsers import rating
from llmprog.program import Program
from llmprog.programs.answers import stated_answer
from llmprog.programs.evidence_qa.paragraphs import (
    Paragraph,
    Task,
    bundled_paragraphs,
    parse_task,
    read_paragraphs,
)
from llmprog.programs.evidence_qa.ranking import Ranked, rank_paragraphs
from llmprog.search import BeamSearch
from llmprog.search.controller import VoteResult
from llmprog.search.stopping import leader_confidence
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.voting import Tally, canonical_answer
from llmprog.tasks import gather_or_cancel

_MAX_STEP = 500  # characters of a reply that are kept
_BLANK_FORM = re.compile(r"<[^<>]*\banswer\b[^<>]*>", re.IGNORECASE)  # the form that was to be filled
_CITATION = re.compile(r"\s*\[[^\[\]]*\]\s*\Z")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of reasoning, and the paragraph it was made from."""

    text: str
    paragraph: Paragraph

    def __str__(self) -> str:
        return f"{self.text} [{self.paragraph.id}]"


@dataclass(frozen=True, slots=True)
class Chain:
    """A line of reasoning.

    Attributes:
        task: The question and all paragraphs.
        ranking: The paragraphs in use, the most helpful first; empty before they were ranked.
        steps: What was reasoned so far; of a finished chain the last one is the answer's.
        answer: The answer, once there is one.
    """

    task: Task
    ranking: tuple[Ranked, ...] = ()
    steps: tuple[Step, ...] = ()
    answer: str | None = None

    def __str__(self) -> str:
        if self.steps:
            return str(self.steps[-1])
        return ", ".join(map(str, self.ranking)) or str(self.task)


@dataclass(frozen=True, slots=True)
class CitedAnswer:
    """An answer, and the ids of the paragraphs that it was reasoned from."""

    text: str
    cited: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.text} [{', '.join(self.cited)}]"


def without_sources(answer: Any) -> str | None:
    """The form in which cited answers are compared: what they cite does not count."""
    if answer is None:
        return None
    return canonical_answer(answer.text if isinstance(answer, CitedAnswer) else _CITATION.sub("", str(answer)))


@dataclass(kw_only=True)
class ConsistentBeam(BeamSearch):
    """A beam search after which the finished chains vote: the answer that most of them came to.

    Ties go to the answer whose chains have the higher mean score, then to the first seen.

    Attributes:
        canonical: The form in which answers are compared.
    """

    stop_on_goal: bool = False
    canonical: Callable[[Any], str | None] = without_sources

    def _count(self, graph: ThoughtGraph) -> tuple[Tally, dict[str, list[int]], int]:
        tally, chains, num_finished = Tally(canonical=self.canonical), dict[str, list[int]](), 0
        for thought in range(len(graph)):
            if not graph.is_goal(thought):
                continue
            answer = self._context.answer(graph.states[thought])
            for _ in graph.arrivals(thought):  # equal chains are one thought, and count as often as they came
                num_finished += 1
                tally.add(answer, graph.scores[thought])
            form = self.canonical(answer)
            if form is not None:
                chains.setdefault(form, []).append(thought)
        return tally, chains, num_finished

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best chain with the winning answer; before any is finished, the best so far."""
        tally, chains, _ = self._count(graph)
        ranking = tally.ranking()
        if not ranking:
            return super().best(graph)
        return max(chains[ranking[0][0]], key=lambda thought: (graph.scores[thought], -thought))

    def votes(self, graph: ThoughtGraph) -> VoteResult:
        """How many finished chains came to each answer."""
        tally, chains, num_finished = self._count(graph)
        ranking = tally.ranking()
        return VoteResult(
            histogram=tuple((self._context.answer(graph.states[chains[form][0]]), n) for form, n in ranking),
            confidence=leader_confidence([round(n) for _, n in ranking]),
            num_samples=num_finished,
            num_valid=round(sum(n for _, n in ranking)),
            num_allowed=num_finished,
        )


def rank(num_paragraphs: int, filter_: bool, max_tokens: int) -> Generator:
    """A generator of the one state in which the paragraphs have been ranked and the best kept."""

    @generator(name="rank")
    async def rank(state: Chain, model: Model) -> AsyncIterator[Chain]:
        if not state.ranking:
            if filter_:
                ranking = await rank_paragraphs(state.task, model, max_tokens=max_tokens)
            else:
                ranking = [Ranked(paragraph, 0.0) for paragraph in state.task.paragraphs]
            yield Chain(state.task, tuple(ranking[:num_paragraphs]))

    return rank


def ask(state: Chain, paragraph: Paragraph | None, is_last: bool) -> str:
    """What a model is asked for the next step of a chain; without a paragraph, from what it knows."""
    lines = ["Answer the question." if paragraph is None else "Answer the question from the text.", ""]
    if paragraph is not None:
        lines += [f"Text: {paragraph.text}", ""]
    lines += [f"Question: {state.task.question}", ""]
    if state.steps:
        lines += ["Known so far:", *(f"- {step.text}" for step in state.steps), ""]
    if is_last:
        lines.append("Reply with the answer alone, in a few words, on one line:\nAnswer: <the answer>")
    else:
        lines.append(
            "Reply with one sentence that helps to answer it. If the answer is certain, reply instead with the line\n"
            "Answer: <the answer in a few words>"
        )
    return "\n".join(lines) + "\n"


def reason(num_steps: int, num_samples: int, temperature: float, max_tokens: int) -> Generator:
    """A generator of the next steps of a chain, from each paragraph that is left another."""

    @generator(name="reason", temperature=temperature, max_tokens=max_tokens)
    async def reason(state: Chain, model: Model) -> AsyncIterator[Chain]:
        if not state.ranking or state.answer is not None:
            return
        is_last = len(state.steps) + 1 >= num_steps
        prompts = [ask(state, ranked.paragraph, is_last) for ranked in state.ranking]
        replies = await gather_or_cancel(model.generate(prompt, n=num_samples) for prompt in prompts)
        for ranked, completions in zip(state.ranking, replies, strict=True):
            for completion in completions:
                line = _first_line(completion.text)
                if line and not _BLANK_FORM.search(line):
                    step = Step(line, ranked.paragraph)
                    answer = stated_answer(completion.text[:_MAX_STEP]) or (line if is_last else None)
                    yield Chain(state.task, state.ranking, (*state.steps, step), answer)

    return reason


def support(num_steps: int, max_tokens: int) -> Checker:
    """A checker that scores a chain's last step by how much its paragraph supports it.

    In nats per token: how much likelier the step is with the paragraph than without it. Of a backend without
    likelihoods, a tenth of the rating from 0 to 10 that the model gives.
    """

    @checker(name="support", temperature=0.0, max_tokens=max_tokens)
    async def support(state: Chain, model: Model) -> Verdict:
        if not state.steps:
            return Verdict()
        *_, last = state.steps
        before = Chain(state.task, state.ranking, state.steps[:-1])
        if model.can("score"):
            is_last = len(state.steps) >= num_steps
            given = [ask(before, paragraph, is_last) for paragraph in (last.paragraph, None)]
            scores = await gather_or_cancel(model.score(prompt, [f"\n{last.text}"]) for prompt in given)
            (with_text,), (without,) = scores
            return Verdict(score=(with_text.total - without.total) / max(1, len(with_text.logprobs)))
        (completion,) = await model.generate(
            f"Text: {last.paragraph.text}\n\nQuestion: {state.task.question}\n\nStatement: {last.text}\n\n"
            "How well does the text support the statement? Reply with a number from 0 to 10, alone on the last line.\n"
        )
        return Verdict(score=(rating(completion.text, lowest=0, highest=10) or 0.0) / 10)

    return support


def _first_line(text: str) -> str:
    return next((line.strip() for line in text[:_MAX_STEP].splitlines() if line.strip()), "")


def evidence_qa(
    *,
    paragraphs: str | None = None,
    filter: bool = True,  # noqa: A002 - the paper's word, and a setting, not a function
    num_paragraphs: int = 3,
    num_steps: int = 2,
    beam_width: int = 3,
    num_samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 100,
) -> Program:
    """Answer a question from paragraphs: rank them by likelihood, reason from the best, vote, cite.

    Args:
        paragraphs: File of paragraphs (.jsonl, .json, or text with blank lines between them); the bundled ones if none.
        filter: Rank the paragraphs; false takes them in the order given.
        num_paragraphs: Paragraphs to reason from.
        num_steps: Longest chain of steps, the answer's included.
        beam_width: Chains kept per level.
        num_samples: Steps drawn per chain and paragraph.
        temperature: Of the steps; judgements are at 0.
        max_tokens: Longest step, and longest judgement, in the model's tokens.
    """
    if num_paragraphs < 1 or num_steps < 1 or num_samples < 1:
        raise OptionError(
            f"num_paragraphs={num_paragraphs!r}, num_steps={num_steps!r}, num_samples={num_samples!r}; allowed are "
            "whole numbers >= 1"
        )
    known = bundled_paragraphs() if paragraphs is None else read_paragraphs(paragraphs)

    def start(given: Any) -> Chain:
        return Chain(parse_task(given, known))

    return Program(
        name="evidence_qa",
        start=start,
        generators=[
            rank(num_paragraphs, filter, max_tokens),
            reason(num_steps, num_samples, temperature, max_tokens),
        ],
        # Of a single chain there is nothing to choose.
        checkers=[support(num_steps, max_tokens)] if num_paragraphs * num_samples > 1 else [],
        controller=ConsistentBeam(beam_width=beam_width, max_depth=num_steps + 1),
        goal=_is_finished,
        answer=_cited,
        explain=_explain,
    )


def _is_finished(state: Chain) -> bool:
    return state.answer is not None


def _cited(state: Chain) -> CitedAnswer | None:
    if state.answer is None:
        return None
    return CitedAnswer(state.answer, tuple(dict.fromkeys(step.paragraph.id for step in state.steps)))


def _explain(state: Chain) -> str:
    return (
        "no chain came to an answer: the model replied with nothing; what it wrote is in the graph; "
        "raise num_steps or max_tokens, or use a larger model"
    )
