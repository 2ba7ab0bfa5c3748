"""Worked examples that stand before a question (few-shot prompting), read from a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprog.errors import InputError, OptionError, SpecError

_MAX_BYTES = 1_000_000  # all of it stands in every prompt
_FORMATS = (".jsonl", ".csv", ".yaml", ".yml")
_NAMES = {
    "question": ("question", "input", "prompt"),
    "answer": ("answer", "gold", "output"),
    "reasoning": ("reasoning", "steps"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with its answer, and how one comes to it.

    Attributes:
        question: The question.
        answer: Its answer.
        reasoning: The steps to it; empty where an answer is all that is shown.
    """

    question: str
    answer: str
    reasoning: str = ""


def read_examples(path: str | Path, num_examples: int | None = None) -> tuple[Example, ...]:
    """The examples of a ``.jsonl``, ``.csv`` or ``.yaml`` file, in their order.

    Each is an object (a row) with ``question`` and ``answer``, and ``reasoning`` where there is any; ``input`` and
    ``gold``, as the data of jobs have them, will do too.

    Args:
        path: The file.
        num_examples: Only the first so many; ``None`` takes all.

    Raises:
        InputError: The file cannot be read, an example lacks something, or there are fewer than were asked for. All
            faults of the examples are listed.
        OptionError: None are asked for.
    """
    path = Path(path)
    if num_examples is not None and num_examples < 1:
        raise OptionError(f"num_examples={num_examples}; allowed is a whole number >= 1; leave out examples= for none")
    if path.suffix not in _FORMATS:
        raise InputError(f"examples={str(path)!r}; allowed are files that end with {', '.join(_FORMATS)}")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"the examples {str(path)!r} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise InputError(
            f"the examples {str(path)!r} are over {_MAX_BYTES} bytes; a prompt holds all of them: give few"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the examples {str(path)!r} are not UTF-8 (byte {error.start})") from error
    found, faults = [], []
    for where, value in _objects(text, path):
        if isinstance(value, str):
            faults.append(f"{where}: {value}")
            continue
        example = _example(value)
        if isinstance(example, str):
            faults.append(f"{where}: {example}")
        else:
            found.append(example)
    if faults:
        raise InputError(f"the examples {str(path)!r}: {'; '.join(faults)}")
    if len(found) < (num_examples or 1):
        raise InputError(f"the examples {str(path)!r} are {len(found)}, wanted are {num_examples or 'at least 1'}")
    return tuple(found[:num_examples])


def _objects(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Each example as it is written, or what is wrong with it, and where it stands."""
    if path.suffix == ".jsonl":
        yield from _json_objects(text)
    elif path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            yield f"line {reader.line_num}", f"no row of CSV ({error})"
    else:
        yield from _yaml_objects(text)


def _json_objects(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"line {number}", _as_object(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", f"no JSON ({error})"


def _yaml_objects(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    from llmprog.documents import read_values

    try:
        value = read_values(text, "YAML")
    except SpecError as error:
        # Each fault begins with the place that it is at.
        yield from ((place, fault) for place, _, fault in (fault.partition(": ") for fault in error.faults))
        return
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    for number, item in enumerate(items, 1):
        yield f"example {number}", _as_object(item)


def _as_object(value: Any) -> Mapping[str, Any] | str:
    return value if isinstance(value, Mapping) else f"{value!r:.60} is no object with a question and an answer"


def _example(value: Mapping[str, Any]) -> Example | str:
    """The example that an object holds, or what it lacks."""
    parts: dict[str, str] = {}
    for part, names in _NAMES.items():
        given = next((value[name] for name in names if value.get(name) not in (None, "")), "")
        if isinstance(given, Mapping | list | bool):
            return f"{part} is {given!r:.60}; allowed is a text or a number"
        parts[part] = str(given).strip()
    missing = [part for part in ("question", "answer") if not parts[part]]
    if missing:
        return f"no {' and no '.join(missing)}; it has {', '.join(map(str, value)) or 'nothing'}"
    return Example(**parts)
