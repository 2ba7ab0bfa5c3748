"""Paragraphs to answer from: those that come with the program, those of a file, those of an input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from llmprog.errors import InputError, OptionError

_MAX_PARAGRAPHS = 10_000
_MAX_LENGTH = 20_000
_ID = re.compile(r"[^\s\[\],]{1,80}")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, and the id it is cited by."""

    id: str
    text: str

    def __str__(self) -> str:
        return f"[{self.id}] {self.text}"


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and the paragraphs that may help to answer it."""

    question: str
    paragraphs: tuple[Paragraph, ...]

    def __str__(self) -> str:
        return f"{self.question} ({len(self.paragraphs)} paragraphs)"


@dataclass(frozen=True, slots=True)
class GoldQuestion:
    """A question that comes with the program.

    Attributes:
        question: The question.
        paragraph: Id of the one paragraph that answers it.
        answers: An answer is right if it contains one of these, in any case.
    """

    question: str
    paragraph: str
    answers: tuple[str, ...]


@cache
def bundled_paragraphs() -> tuple[Paragraph, ...]:
    """The paragraphs that come with the program: general knowledge, several about each subject."""
    return tuple(Paragraph(entry["id"], entry["text"]) for entry in _bundled("paragraphs.jsonl"))


@cache
def bundled_questions() -> tuple[GoldQuestion, ...]:
    """Questions about them, with the paragraph that answers each and what an answer has to contain."""
    return tuple(
        GoldQuestion(entry["question"], entry["paragraph"], tuple(entry["answers"]))
        for entry in _bundled("questions.jsonl")
    )


def _bundled(name: str) -> Iterable[Any]:
    text = resources.files(__package__ or __name__).joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_paragraphs(path: str | Path) -> tuple[Paragraph, ...]:
    """The paragraphs of a file: JSON lines, a JSON list, or text with blank lines between paragraphs.

    Raises:
        OptionError: It cannot be read, or holds none.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
        if place.suffix == ".jsonl":
            return as_paragraphs([json.loads(line) for line in text.splitlines() if line.strip()])
        if place.suffix == ".json":
            return as_paragraphs(json.loads(text))
        return as_paragraphs([part for part in re.split(r"\n\s*\n", text) if part.strip()])
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"paragraphs={str(path)!r}: {reason}; give a .jsonl, .json or text file") from error
    except InputError as error:
        raise OptionError(f"paragraphs={str(path)!r}: {error}") from error


def as_paragraphs(entries: Any) -> tuple[Paragraph, ...]:
    """Texts, or mappings with ``id`` and ``text``, as paragraphs; a text is cited by its number, from 1.

    Raises:
        InputError: It is no list of those, or two have one id.
    """
    if not isinstance(entries, list | tuple) or not 1 <= len(entries) <= _MAX_PARAGRAPHS:
        raise InputError(f"paragraphs: {_shown(entries)}; allowed is a list of 1 to {_MAX_PARAGRAPHS} paragraphs")
    found: dict[str, Paragraph] = {}
    for number, entry in enumerate(entries, 1):
        made = _paragraph(entry, number)
        if made.id in found:
            raise InputError(f"paragraph {number}: the id {made.id!r} is taken; give each an id of its own")
        found[made.id] = made
    return tuple(found.values())


def _paragraph(entry: Any, number: int) -> Paragraph:
    if isinstance(entry, Paragraph):
        return entry
    id_, text = (
        (entry.get("id", str(number)), entry.get("text")) if isinstance(entry, Mapping) else (str(number), entry)
    )
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= _MAX_LENGTH:
        raise InputError(
            f"paragraph {number} is {_shown(entry)}; allowed is a text of 1 to {_MAX_LENGTH} characters, or an object "
            'such as {"id": "moon", "text": "The moon …"}'
        )
    if not _ID.fullmatch(str(id_)):
        raise InputError(f"paragraph {number}: id {_shown(id_)}; allowed are up to 80 characters without space [ ] ,")
    return Paragraph(str(id_), " ".join(text.split()))


def parse_task(given: Any, paragraphs: tuple[Paragraph, ...]) -> Task:
    """A question as text, or an object with ``question`` and perhaps ``paragraphs`` of its own (JSON text, too).

    Raises:
        InputError: There is no question, or the paragraphs are none.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise InputError(f"evidence_qa: the input begins with a brace but is no JSON: {error}") from error
    question = given.get("question") if isinstance(given, Mapping) else given
    if not isinstance(question, str) or not 1 <= len(question.strip()) <= _MAX_LENGTH:
        raise InputError(
            f"evidence_qa: {_shown(given)} is no question; give a text such as 'How do bats find their prey?', or an "
            'object with "question" and "paragraphs"'
        )
    own = given.get("paragraphs") if isinstance(given, Mapping) else None
    return Task(" ".join(question.split()), paragraphs if own is None else as_paragraphs(own))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
