"""YAML and JSON as plain values that remember where in the file they stand.

The YAML is a small and safe part of the language: mappings with texts as keys, lists, texts, numbers, true, false and
null. There are no tags, so nothing is constructed but these; a key may not be given twice; an alias is expanded, and
what it expands to is limited. Plain words are read by the rules of YAML 1.2: ``no``, ``on`` and ``12:30`` are texts,
``1e3`` is a number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from llmprog.errors import SpecError

MAX_CHARACTERS = 262_144
MAX_DEPTH = 48
MAX_VALUES = 20_000

Path: TypeAlias = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MAX_DIGITS = 18
_ONE_IN_A_TUPLE = re.compile(r"\(('.*'),\)")  # as some of ruamel.yaml's messages show what they found
UNLIKE_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
"""Characters that YAML refuses or changes where they are not written as escapes."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong with a file, and where."""

    mark: Mark
    message: str


@dataclass(slots=True)
class Document:
    """What a file holds.

    Attributes:
        file: What it is called in messages.
        value: Its content: dicts, lists, texts, numbers, bools and ``None``.
        marks: Where the value of each path begins.
        key_marks: Where the key of each path of a mapping begins.
        faults: What is wrong with it so far.
    """

    file: str
    value: Any = None
    marks: dict[Path, Mark] = field(default_factory=dict)
    key_marks: dict[Path, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def report(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Take note of a fault of what stands at ``path``, or of the nearest thing around it."""
        fault = Fault(self.mark(path, at_key=at_key), message)
        if fault not in self.faults:
            self.faults.append(fault)

    def mark(self, path: Path, *, at_key: bool = False) -> Mark:
        """Where ``path`` stands in the file."""
        if at_key and path in self.key_marks:
            return self.key_marks[path]
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))

    def refuse(self) -> None:
        """Raise what was reported, if anything was.

        Raises:
            SpecError: There are faults.
        """
        if self.faults:
            ordered = sorted(self.faults)
            raise SpecError(self.file, [f"{self.file}:{f.mark.line}:{f.mark.column}: {f.message}" for f in ordered])


def read_document(text: str, file: str) -> Document:
    """The content of a YAML or JSON text, with its faults; what is wrong with its syntax ends the reading.

    Raises:
        SpecError: It is no YAML (of a file ``*.json``: no JSON), or beyond the limits.
    """
    document = Document(file)
    if len(text) > MAX_CHARACTERS:
        document.faults.append(Fault(Mark(1, 1), f"{len(text)} characters; allowed are up to {MAX_CHARACTERS}"))
        document.refuse()
    if file.endswith(".json"):
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            document.faults.append(Fault(Mark(error.lineno, error.colno), f"no JSON: {error.msg}"))
        except RecursionError:
            document.faults.append(Fault(Mark(1, 1), f"nested deeper than {MAX_DEPTH}"))
        document.refuse()
        # Between values a tab is space; other such characters are in texts, where JSON allows and YAML changes them.
        text = UNLIKE_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\t", " "))
    try:
        document.value = _Composer(document).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)
        said = _ONE_IN_A_TUPLE.sub(r"\1", ", ".join(filter(None, (error.context, error.problem))))
        document.faults.append(Fault(place, f"no YAML: {said}; quote texts that hold : # {{ [ or begin with @ ` % & *"))
    except ReaderError as error:
        before = text[: error.position]
        place = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        document.faults.append(
            Fault(place, f"the character {text[error.position]!r} is not allowed; write it as an escape")
        )
    except _BeyondLimitError as error:
        document.faults.append(Fault(error.mark, str(error)))
    if document.value is None:
        if not document.faults:
            document.faults.append(Fault(Mark(1, 1), "the file is empty; docs/yaml.md shows how YAML is read here"))
        document.refuse()
    return document


def read_values(text: str, file: str) -> Any:
    """What a YAML or JSON text holds, for whom its places are of no use.

    Raises:
        SpecError: It is no YAML (of a file ``*.json``: no JSON), beyond the limits, or has other faults.
    """
    document = read_document(text, file)
    document.refuse()
    return document.value


def plain_value(text: str) -> Any:
    """What a plain word of YAML 1.2 is: a number, a bool, ``None``, or the text itself.

    Raises:
        ValueError: It is a number that is not allowed.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"{text[:20]}… has more than {_MAX_DIGITS} digits; quote it if it is a text")
        if len(text.lstrip("+-")) > 1 and text.lstrip("+-").startswith("0"):
            raise ValueError(f"{text} begins with 0; write it without, or quote it if it is a text")
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text}: allowed are finite numbers")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text}: too large; allowed are finite numbers")
        # 1e3 is a whole number too, where one is wanted.
        return int(number) if "e" in text.lower() and number.is_integer() and abs(number) < 10**15 else number
    return text


class _BeyondLimitError(Exception):
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark = mark
        super().__init__(message)


class _AnyVersion(YAML):
    """Reads ``%YAML 1.0`` and ``%YAML 1.3`` as well, which are the same here."""

    @property
    def version(self) -> Any:
        return None

    @version.setter
    def version(self, version: Any) -> None:
        """Not kept: plain words are read by our own rules."""


class _Composer:
    """Makes values of YAML's events: each value of an alias is made anew, so that every container has one place."""

    # Events are Any: ruamel.yaml's types do not say what each kind of them holds.

    def __init__(self, document: Document) -> None:
        self._document = document
        self._anchors: dict[str, list[Any] | None] = {}
        self._recorded: list[list[Any]] = []  # of the anchors that are being read
        self._num_values = 0
        self._is_expanding = False

    def compose(self, text: str) -> Any:
        found = self._recording(_AnyVersion(typ="safe", pure=True).parse(text))
        value: Any = None
        num_documents = 0
        for event in found:
            if isinstance(event, events.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    self._document.faults.append(Fault(_mark(event), "a second document; a file holds one program"))
                    return value
                value = self._value(next(found), found, (), 0)
        return value

    def _recording(self, following: Iterator[Any]) -> Iterator[Any]:
        for event in following:
            for recorded in self._recorded:
                recorded.append(event)
            yield event

    def _value(self, event: Any, following: Iterator[Any], path: Path, depth: int) -> Any:
        mark = _mark(event)
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _BeyondLimitError(mark, f"more than {MAX_VALUES} values, those of aliases included")
        if depth > MAX_DEPTH:
            raise _BeyondLimitError(mark, f"nested deeper than {MAX_DEPTH}")
        self._document.marks.setdefault(path, mark)
        if isinstance(event, events.AliasEvent):
            return self._alias(event, path, depth)
        if event.anchor is None or self._is_expanding:
            return self._content(event, following, path, depth)
        self._anchors[event.anchor] = None
        recorded: list[Any] = [event]
        self._recorded.append(recorded)
        value = self._content(event, following, path, depth)
        # By identity: two anchors may have recorded the same so far.
        self._recorded = [other for other in self._recorded if other is not recorded]
        self._anchors[event.anchor] = recorded
        return value

    def _alias(self, event: Any, path: Path, depth: int) -> Any:
        if event.anchor not in self._anchors:
            self._document.report(path, f"the alias *{event.anchor} stands for nothing: no &{event.anchor} before it")
            return None
        recorded = self._anchors[event.anchor]
        if recorded is None:
            self._document.report(path, f"the alias *{event.anchor} stands inside what it stands for")
            return None
        again = iter(recorded)
        first = next(again)
        was_expanding, self._is_expanding = self._is_expanding, True
        value = self._content(first, again, path, depth)
        self._is_expanding = was_expanding
        return value

    def _content(self, event: Any, following: Iterator[Any], path: Path, depth: int) -> Any:
        if event.tag is not None:
            self._document.report(path, f"the tag {event.tag}: there are no tags here; nothing is made of them")
        if isinstance(event, events.MappingStartEvent):
            return self._mapping(following, path, depth)
        if isinstance(event, events.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(following), events.SequenceEndEvent):
                items.append(self._value(event, following, (*path, len(items)), depth + 1))
            return items
        if event.style is not None:
            return self._text(event)
        try:
            return plain_value(event.value)
        except ValueError as error:
            self._document.report(path, str(error))
            return 0

    def _text(self, event: Any) -> str:
        text: str = event.value
        try:
            return _joined_surrogates(text)
        except UnicodeDecodeError:
            said = "half of a character: an escape from \\ud800 to \\udfff without its other half"
            self._document.faults.append(Fault(_mark(event), said))
            return text

    def _mapping(self, following: Iterator[Any], path: Path, depth: int) -> dict[str, Any]:
        content: dict[str, Any] = {}
        while not isinstance(event := next(following), events.MappingEndEvent):
            mark = _mark(event)
            if not isinstance(event, events.ScalarEvent):
                self._document.faults.append(Fault(mark, "a key that is no text"))
                self._value(event, following, (*path, "?"), depth + 1)
                self._value(next(following), following, (*path, "?"), depth + 1)
                continue
            key = self._text(event)
            inner = (*path, key)
            if key == "<<" and event.style is None:
                self._document.faults.append(Fault(mark, "<< does not merge here; write the keys out"))
            if key in content:
                first = self._document.key_marks[inner]
                self._document.faults.append(Fault(mark, f"{key!r} is given twice; first in line {first.line}"))
                inner = (*path, f"{key} (again)")
            self._document.key_marks.setdefault(inner, mark)
            value = self._value(next(following), following, inner, depth + 1)
            content.setdefault(key, value)
        return content


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _joined_surrogates(text: str) -> str:
    r"""A text in which JSON wrote a character as two escapes, such as ``\ud83d\ude00``.

    Raises:
        UnicodeDecodeError: One of them stands alone.
    """
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16")
