"""A passage of four paragraphs that end with four given sentences: at once, planned, voted on, or filled in.

Yao et al. 2023 (arXiv 2305.10601, section 4.2): plans are sampled and voted on, then passages written by the best plan,
again by vote; a judge grades the coherency from 1 to 10. Beyond it: whether the paragraphs end as they must is checked
exactly, and diffusion models write into a template that has the four endings in place, or edit a draft.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmprog.backends.remote.protocols.reasoning import split_reasoning
from llmprog.errors import InputError, OptionError
from llmprog.nodes import Checker, Generator, checker, generator
from llmprog.parsers import choice
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.judges import mean_grade
from llmprog.search import Generate, GraphOfThoughts, KeepBest, OperationGraph, Score
from llmprog.search.operations import Operation
from llmprog.types import Blank, Prompt, Template

Method = Literal["io", "cot", "tot", "infill", "edit"]

NUM_PARAGRAPHS = 4
HIGHEST_GRADE = 10
_MAX_SENTENCE = 500
_MAX_TEXT = 100_000
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_HEADING = re.compile(r"^\W*(?:passage|story|text)\W*(?:\n|:)", re.IGNORECASE | re.MULTILINE)
_TOKENS_PER_WORD = 1.4  # of English; a blank has a length in tokens

_TASK = """Write a coherent passage of four short paragraphs. The paragraphs end with these sentences, word for word:
{endings}
"""
_PLAN = _TASK + "\nDo not write the passage yet. Make a plan for it: a line for each paragraph.\n"
_BY_PLAN = _TASK + "\nFollow this plan:\n{plan}\n\nGive the passage alone, with a blank line between paragraphs.\n"
_AT_ONCE = _TASK + "\nGive the passage alone, with a blank line between paragraphs.\n"
_STEPS = (
    _TASK + "\nFirst make a plan, a line for each paragraph. Then write a line Passage: and below it the passage.\n"
)
_VOTE = """{task}
Here are {num} {what} for it.

{listed}

Which is the best one: the most coherent, and the most likely to please a reader? Say why in a few words,
then end with the line
The best choice is <its number>
"""
_GRADE = """Grade the coherency of this passage from 1 (its sentences have nothing to do with each other) to 10 (every
sentence follows from those before it).

{text}

Say why in a few words, then end with the line
Score: <1 to 10>
"""


@dataclass(frozen=True, slots=True)
class Story:
    """A passage on the way.

    Attributes:
        endings: The sentences that its paragraphs end with.
        plan: What it is to be about; empty before, and without, a plan.
        text: The passage; empty before it is written.
        grade: Its coherency from 1 to 10; ``None`` before it is graded, and where no judgement gives a grade.
        judged: What the grade is the mean of; empty before it is graded.
    """

    endings: tuple[str, ...]
    plan: str = ""
    text: str = ""
    grade: float | None = None
    judged: str = ""

    @property
    def fault(self) -> str:
        """Why the passage does not do what was asked; empty if it does."""
        return fault_of(self.text, self.endings)

    def __str__(self) -> str:
        if self.judged:
            grade = "no grade" if self.grade is None else f"coherency {self.grade:.1f} of {HIGHEST_GRADE}"
            return f"{grade} ({self.judged})"
        return self.text or self.plan or " / ".join(self.endings)


def parse_endings(given: str | Sequence[str]) -> tuple[str, ...]:
    """Four sentences, from lines, from one line, or from a list.

    Raises:
        InputError: They are not four, or one is too long.
    """
    if isinstance(given, str):
        lines = [line.strip() for line in given.splitlines() if line.strip()]
        found = lines if len(lines) > 1 else _sentences(given)
    else:
        found = [" ".join(str(sentence).split()) for sentence in given]
    found = [re.sub(r"^\d[.)]\s+", "", sentence) for sentence in found]
    if len(found) != NUM_PARAGRAPHS or not all(0 < len(sentence) <= _MAX_SENTENCE for sentence in found):
        raise InputError(
            f"creative_writing: {len(found)} sentences in {str(given)[:80]!r}; allowed are {NUM_PARAGRAPHS}, each on a "
            f"line of its own and of at most {_MAX_SENTENCE} characters"
        )
    return tuple(found)


def fault_of(text: str, endings: Sequence[str]) -> str:
    """Why a passage's paragraphs do not end as they must; empty if they do. Case, spaces and quotes do not matter."""
    paragraphs = paragraphs_of(text)
    if len(paragraphs) != len(endings):
        return f"{len(paragraphs)} paragraphs, not {len(endings)}"
    for number, (paragraph, ending) in enumerate(zip(paragraphs, endings, strict=True), 1):
        if not f" {_folded(paragraph)}".endswith(f" {_folded(ending)}"):
            return f"paragraph {number} does not end with {ending!r}"
    return ""


def paragraphs_of(text: str) -> list[str]:
    """The paragraphs of a text, between blank lines."""
    return [part.strip() for part in _PARAGRAPHS.split(text[:_MAX_TEXT]) if part.strip()]


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text.strip()) if part.strip()]


def _folded(text: str) -> str:
    return re.sub(r"[\s\"'“”‘’*_]+", " ", text).strip().rstrip(".!?…) ").casefold()


# ------------------------------------------------------------------------------------------------- text


def _asking(form: str) -> Callable[[Story], str]:
    def ask(state: Story) -> str:
        return form.format(endings=_numbered(state.endings), plan=state.plan)

    return ask


def _numbered(endings: Sequence[str]) -> str:
    return "\n".join(f"{number}. {ending}" for number, ending in enumerate(endings, 1))


def _planner(**sampling: Any) -> Generator:
    @generator(prompt=_asking(_PLAN), name="plan", **sampling)
    def plan(state: Story, completion: str) -> Sequence[Story]:
        made = split_reasoning(completion)[0].strip()
        return [replace(state, plan=made)] if made else []

    return plan


def _writer(form: str, **sampling: Any) -> Generator:
    """What writes the passage; of a reply that plans first, the passage is what stands below its heading."""

    @generator(prompt=_asking(form), name="write", **sampling)
    def write(state: Story, completion: str) -> Sequence[Story]:
        reply = split_reasoning(completion)[0]
        heading = list(_HEADING.finditer(reply))[-1:] if form == _STEPS else []
        plan = reply[: heading[0].start()].strip() if heading else state.plan
        text = reply[heading[0].end() :].strip() if heading else reply.strip()
        return [replace(state, plan=plan, text=text)] if text else []

    return write


def _voter(num_votes: int, **sampling: Any) -> Checker:
    def ask(states: Sequence[Story]) -> str:
        what = "passages" if states[0].text else "plans"
        listed = "\n\n".join(f"Choice {number}:\n{state}" for number, state in enumerate(states, 1))
        task = _TASK.format(endings=_numbered(states[0].endings))
        return _VOTE.format(task=task, num=len(states), what=what, listed=listed)

    @checker(prompt=ask, name="vote", kind="vote", n=num_votes, **sampling)
    def vote(states: Sequence[Story], completion: str) -> int | None:
        return choice(completion, len(states))

    return vote


def _judge(num_evaluations: int, **sampling: Any) -> Generator:
    def ask(state: Story) -> str:
        return _GRADE.format(text=state.text)

    @generator(prompt=ask, name="judge", n=num_evaluations, **sampling)
    def judge(state: Story, completions: list[str]) -> Story:
        grade, judged = mean_grade(completions, lowest=1, highest=HIGHEST_GRADE)
        return replace(state, grade=grade, judged=judged)

    return judge


# ------------------------------------------------------------------------------------------------- templates


def _blank_paragraphs(paragraph_tokens: int) -> Callable[[Story], Template]:
    """Four paragraphs with everything left open but their last sentences."""

    def template(state: Story) -> Template:
        parts = [part for ending in state.endings for part in (Blank(paragraph_tokens), f" {ending}\n\n")]
        return _template(state, parts)

    return template


def _blank_openings(paragraph_tokens: int) -> Callable[[Story], Template]:
    """A draft whose paragraphs end as they must, with blanks where each one is joined to the one before it.

    The blanks are the first sentences of all paragraphs but the first: what stands on both sides of them is known then.
    Of a draft that is not four paragraphs nothing is kept.
    """

    def template(state: Story) -> Template:
        paragraphs = paragraphs_of(state.text)
        if len(paragraphs) != len(state.endings):
            return _blank_paragraphs(paragraph_tokens)(state)
        parts: list[str | Blank] = []
        for number, (paragraph, ending) in enumerate(zip(paragraphs, state.endings, strict=True)):
            body = [sentence for sentence in _sentences(paragraph) if _folded(sentence) != _folded(ending)]
            if not body:
                parts += [Blank(paragraph_tokens), f" {ending}\n\n"]
            elif number == 0:
                parts.append(f"{' '.join(body)} {ending}\n\n")
            else:
                num_tokens = round(_TOKENS_PER_WORD * len(body[0].split())) + 1
                parts += [Blank(min(num_tokens, paragraph_tokens)), f" {' '.join([*body[1:], ending])}\n\n"]
        return _template(state, parts)

    return template


def _template(state: Story, parts: list[str | Blank]) -> Template:
    last = parts[-1]
    if isinstance(last, str):
        parts = [*parts[:-1], last.rstrip()]
    return Template(Prompt.from_text(_AT_ONCE.format(endings=_numbered(state.endings))), tuple(parts))


def _filler(name: str, ask: Callable[[Story], Template], **sampling: Any) -> Generator:
    @generator(prompt=ask, name=name, **sampling)
    def fill(state: Story, completion: str) -> Story:
        return replace(state, text=completion.strip())

    return fill


# ------------------------------------------------------------------------------------------------- the program


def creative_writing(
    *,
    method: Method = "tot",
    num_samples: int | None = None,
    num_votes: int | None = None,
    num_evaluations: int = 5,
    paragraph_tokens: int | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
) -> Program:
    """Write a coherent passage of four paragraphs that end with four given sentences (Yao et al. 2023).

    Args:
        method: ``io`` (the passage at once), ``cot`` (a plan, then the passage, in one reply), ``tot`` (plans by vote,
            then passages by vote), ``infill`` (a model that fills blanks writes the paragraphs in front of their given
            endings) or ``edit`` (a draft at once, then a model that fills blanks joins its paragraphs anew).
        num_samples: Plans, and passages (tot; default 5).
        num_votes: Votes on plans, and on passages (tot; default 5).
        num_evaluations: Grades of the passage, of which the mean counts; 0 asks for none.
        paragraph_tokens: Length of a blank paragraph, in the model's tokens (infill, edit; default 60).
        temperature: Of everything that is drawn.
        max_tokens: Longest reply, in the model's tokens.
    """
    one_of("method", method, Method)
    samples = for_method("num_samples", num_samples, method, {"tot": 5})
    votes = for_method("num_votes", num_votes, method, {"tot": 5})
    length = for_method("paragraph_tokens", paragraph_tokens, method, {"infill": 60, "edit": 60})
    if num_evaluations < 0 or (length is not None and length < 1):
        raise OptionError(
            f"num_evaluations={num_evaluations}, paragraph_tokens={length}; allowed are whole numbers from 0 and from 1"
        )
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    nodes: list[Generator] = []
    checkers: list[Checker] = []
    plan: dict[str, Operation] = {}
    if samples is not None and votes is not None:
        nodes += [_planner(**sampling), _writer(_BY_PLAN, **sampling)]
        checkers.append(_voter(votes, **sampling))
        for what, node in (("plans", "plan"), ("passages", "write")):
            plan[what] = Generate(generator=node, num_samples=samples)
            plan[f"vote on {what}"] = Score(compare=True)
            plan[f"best of {what}"] = KeepBest()
    elif method != "infill":
        nodes.append(_writer(_STEPS if method == "cot" else _AT_ONCE, **sampling))
        plan["passage"] = Generate(generator="write")
    if length is not None:
        blanks = _blank_openings(length) if method == "edit" else _blank_paragraphs(length)
        nodes.append(_filler(method, blanks, **sampling))
        plan[f"{method} blanks"] = Generate(generator=method)
    if num_evaluations:
        nodes.append(_judge(num_evaluations, **sampling))
        plan["grade"] = Generate(generator="judge")
    return Program(
        name="creative_writing",
        start=_first_story,
        generators=nodes,
        checkers=checkers,
        controller=GraphOfThoughts(operations=OperationGraph(plan)),
        goal=_ends_as_asked,
        answer=_text,
        explain=_explain,
    )


def _first_story(given: str | Sequence[str]) -> Story:
    return Story(parse_endings(given))


def _ends_as_asked(state: Story) -> bool:
    return bool(state.text) and not state.fault


def _text(state: Story) -> str | None:
    return state.text or None


def _explain(state: Story) -> str:
    return (
        "no passage has four paragraphs that end with the given sentences, each with its own; the passage that was "
        "written is the answer; method=infill gives a model that fills blanks no other choice"
    )
