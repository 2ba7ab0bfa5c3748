"""A draft that is held against a constitution, principle after principle, and rewritten where it breaks one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmprog.errors import InputError, SpecError
from llmprog.program import Program
from llmprog.programs.revision import Draft, commenting, drafting, parse_task, revising, rounds, text_of

_MAX_BYTES = 200_000
_FORMATS = (".txt", ".yaml", ".yml")

_CRITIQUE = """A task, the reply to it, and a principle that replies are to keep.

Task: {task}

Reply:
{text}

Principle ({name}): {principle}

Quote where the reply breaks this principle, and say how. Other faults do not matter here.
If it breaks the principle, end with the line
Verdict: revise
If it does not, end with the line
Verdict: good
"""
_REVISE = """A task, the reply to it, and how the reply breaks a principle.

Task: {task}

Reply:
{text}

Principle ({name}): {principle}

How it breaks it:
{critique}

Write the reply anew so that it keeps the principle, and change no more than that takes. Give the new reply
and nothing else.
"""


@dataclass(frozen=True, slots=True)
class Principle:
    """What replies are to keep.

    Attributes:
        name: What critiques call it.
        text: The principle.
    """

    name: str
    text: str


CONSTITUTION = (
    Principle("truth", "It claims nothing that is false, and says so where it is not sure."),
    Principle("harm", "It helps nobody to do harm to others or to themselves."),
    Principle("respect", "It is polite, and speaks of no group of people with contempt."),
    Principle("use", "It does what was asked, as far as the other principles allow, and does not lecture."),
)
"""The principles that are used where none are given."""


def critique_revise(
    *,
    principles: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    system: str | None = None,
) -> Program:
    """Write something and revise it by principles, one after the other (Bai et al. 2022).

    Each principle has its critique, which names it; where the critique finds it broken, the reply is written anew. The
    reply after the last principle is the answer. The nodes ``draft``,
    ``critique`` and ``revise`` can have backends of their own.

    Args:
        principles: A file of principles: text, one a line as ``name: text``, or YAML, a list or a mapping of them; by
            default truth, harm, respect, use.
        temperature: Of drafts, critiques and revisions.
        max_tokens: Longest draft, critique or revision, in the model's tokens.
        system: A system prompt for the draft; none by default.
    """
    constitution = CONSTITUTION if principles is None else read_principles(principles)
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    has_passed = _has_passed(len(constitution))
    return Program(
        name="critique_revise",
        start=parse_task("critique_revise"),
        generators=[
            drafting(system, **sampling),
            commenting("critique", _asking_for_critique(constitution), _noting(constitution), **sampling),
            revising(_asking_for_revision(constitution), **sampling),
        ],
        controller=rounds("critique", has_passed, num_drafts=1, max_rounds=len(constitution)),
        goal=has_passed,
        answer=text_of,
        explain=_explain,
    )


def read_principles(path: str | Path) -> tuple[Principle, ...]:
    """The principles of a text file, one a line as ``name: text``, or of a YAML file, a list or a mapping by name.

    One without a name is called by its number. Blank lines of a text, and those that begin with ``#``, are none.

    Raises:
        InputError: The file cannot be read, holds none, or two have the same name.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"principles={str(path)!r}; allowed are files that end with {', '.join(_FORMATS)}")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the principles {str(path)!r} cannot be read: {error}") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"the principles {str(path)!r} are over {_MAX_BYTES} bytes; each costs two calls: give few")
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    found = _named(lines if path.suffix == ".txt" else _yaml(text, path), path)
    names = [principle.name for principle in found]
    if not found or len(set(names)) < len(names):
        raise InputError(
            f"the principles {str(path)!r} are called {', '.join(names) or 'nothing'}; give each its own name"
        )
    return found


def _yaml(text: str, path: Path) -> Any:
    from llmprog.documents import read_values

    try:
        return read_values(text, path.name)
    except SpecError as error:
        raise InputError(f"the principles {str(path)!r}: {'; '.join(error.faults)}") from error


def _named(given: Any, path: Path) -> tuple[Principle, ...]:
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    for number, item in enumerate(given if isinstance(given, list) else [], 1):
        if isinstance(item, Mapping):
            pairs += item.items()
        else:
            name, colon, rest = str(item).partition(":")
            is_named = bool(colon) and len(name.split()) <= 3
            pairs.append((name, rest) if is_named else (str(number), str(item)))
    if not all(isinstance(value, str) and value.strip() for _, value in pairs):
        raise InputError(f"the principles {str(path)!r}: allowed are texts, and texts by name")
    return tuple(Principle(str(name).strip(), value.strip()) for name, value in pairs)


def _asking_for_critique(constitution: Sequence[Principle]) -> Callable[[Draft], str]:
    def ask(state: Draft) -> str:
        principle = constitution[state.place]
        return _CRITIQUE.format(task=state.task, text=state.text, name=principle.name, principle=principle.text)

    return ask


def _asking_for_revision(constitution: Sequence[Principle]) -> Callable[[Draft], str]:
    def ask(state: Draft) -> str:
        principle = constitution[state.place - 1]
        return _REVISE.format(
            task=state.task, text=state.text, name=principle.name, principle=principle.text, critique=state.comment
        )

    return ask


def _noting(constitution: Sequence[Principle]) -> Callable[[Draft], Draft]:
    """What notes that a draft has been held against its next principle, and by which name."""

    def note(state: Draft) -> Draft:
        return replace(state, place=state.place + 1, label=constitution[state.place].name)

    return note


def _has_passed(num_principles: int) -> Callable[[Draft], bool]:
    """Whether a draft has been held against all principles, and rewritten where the last one was broken."""

    def has_passed(state: Draft) -> bool:
        return state.place == num_principles and (state.is_good or not state.comment)

    return has_passed


def _explain(state: Draft) -> str:
    return "the draft did not get through all principles; what was written until then is the answer; see the graph"
