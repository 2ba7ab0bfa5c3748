"""Drafts that are commented on and written anew: what self-refinement and revising by principles have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmprog.backends.remote.protocols.reasoning import split_reasoning
from llmprog.errors import InputError
from llmprog.nodes import Generator, generator
from llmprog.programs.judges import stated_verdict
from llmprog.search import Decide, Generate, GraphOfThoughts, OperationGraph, Select, Thought
from llmprog.types import Prompt

GOOD, REVISE = "good", "revise"
_MAX_TASK = 100_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A task, what was written for it, and what is said of that.

    Attributes:
        task: What is to be written.
        text: What was written last; empty before the first draft.
        comment: What was said of it; empty where nothing was yet.
        is_good: Whether the comment finds nothing to change.
        earlier: Earlier texts, each with the comment on it.
        place: How many principles the text has been through, where there are any.
        label: What the comment goes by, such as a principle's name.
    """

    task: str
    text: str = ""
    comment: str = ""
    is_good: bool = False
    earlier: tuple[tuple[str, str], ...] = ()
    place: int = 0
    label: str = ""

    @property
    def history(self) -> str:
        """Every text so far with the comment on it, for a prompt."""
        rounds = (*self.earlier, (self.text, self.comment))
        return "\n\n".join(f"Version {i}:\n{text}\n\nSaid of it:\n{said}" for i, (text, said) in enumerate(rounds, 1))

    def __str__(self) -> str:
        said = f"[{self.label}] {self.comment}" if self.label else self.comment
        return said or self.text or self.task


def parse_task(program: str) -> Callable[[str], Draft]:
    """What makes the first state of a program from a task."""

    def start(text: str) -> Draft:
        task = str(text).strip()
        if not task or len(task) > _MAX_TASK:
            raise InputError(
                f"{program}: a task of {len(task)} characters; allowed are 1 to {_MAX_TASK}, such as 'Explain rain.'"
            )
        return Draft(task)

    return start


def drafting(system: str | None, **sampling: Any) -> Generator:
    """A generator of first drafts: the task is asked as it is."""

    def ask(state: Draft) -> Prompt:
        return Prompt.from_text(state.task, system=system)

    @generator(prompt=ask, name="draft", **sampling)
    def draft(state: Draft, completion: str) -> Sequence[Draft]:
        text = split_reasoning(completion)[0].strip()
        return [Draft(state.task, text)] if text else []

    return draft


def commenting(name: str, ask: Callable[[Draft], str], taken: Callable[[Draft], Draft], **sampling: Any) -> Generator:
    """A generator of comments; one that ends with ``Verdict: good`` finds nothing to change.

    Args:
        name: As for ``generator``.
        ask: What a model is asked about a draft.
        taken: Applied to the draft with its comment, for what else is to be noted.
        **sampling: As for ``generator``.
    """

    @generator(prompt=ask, name=name, **sampling)
    def comment(state: Draft, completion: str) -> Draft:
        said = split_reasoning(completion)[0].strip() or "(nothing)"
        return taken(replace(state, comment=said, is_good=stated_verdict(said, (GOOD, REVISE)) == GOOD))

    return comment


def revising(ask: Callable[[Draft], str], **sampling: Any) -> Generator:
    """A generator of new versions, which have no comment yet; an empty reply leaves the text as it is."""

    @generator(prompt=ask, name="revise", **sampling)
    def revise(state: Draft, completion: str) -> Draft:
        text = split_reasoning(completion)[0].strip() or state.text
        return Draft(state.task, text, earlier=(*state.earlier, (state.text, state.comment)), place=state.place)

    return revise


def rounds(commenter: str, is_done: Callable[[Draft], bool], *, num_drafts: int, max_rounds: int) -> GraphOfThoughts:
    """A plan: drafts, then comments and new versions by turns, until one of them is done or the rounds are over.

    Args:
        commenter: Name of the generator that comments.
        is_done: Whether a draft needs neither comment nor revision any more.
        num_drafts: Drafts that go through it side by side.
        max_rounds: Comments on a draft at most.
    """

    def choose(thoughts: Sequence[Thought]) -> str | None:
        drafts = [thought.state for thought in thoughts]
        if not drafts or any(map(is_done, drafts)):
            return None
        return "revise" if any(map(needs_revision, drafts)) else "comment"

    plans = {
        "comment": OperationGraph({"comment": Generate(generator=commenter)}),
        "revise": OperationGraph(
            {
                "keep": Select(where=needs_none),
                "change": Select(where=needs_revision, after=()),
                "revise": Generate(generator="revise", after="change"),
            }
        ),
    }
    plan = OperationGraph(
        {
            "draft": Generate(generator="draft", num_samples=num_drafts),
            "rounds": Decide(choose=choose, plans=plans, max_rounds=2 * max_rounds),
        }
    )
    return GraphOfThoughts(operations=plan)


def needs_revision(state: Draft) -> bool:
    """Whether the comment on a draft finds something to change."""
    return bool(state.comment) and not state.is_good


def needs_none(state: Draft) -> bool:
    """Whether a draft stays as it is for now."""
    return not needs_revision(state)


def text_of(state: Draft) -> str | None:
    """The text; ``None`` where nothing was written."""
    return state.text or None
