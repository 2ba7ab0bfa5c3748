"""Parsers for the bodies of nodes: verdicts by words, ratings, choices, numbers, lists, JSON.

All are pure and total: any text gives a value or ``None``, never an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from llmprog.arithmetic import canonical_number

_MAX_TEXT = 200_000  # the end of a longer text is what is read
_MAX_JSON_TRIES = 1_000
_EXACT = re.compile(r"(?<![\w.])[-−+]?\$?\d{1,40}(?:,\d{3})*(?:\.\d{1,40})?(?:/\d{1,40})?")
_BULLET = re.compile(r"^\s*(?:[-*•+]\s+|\(?\d{1,4}[.)]\s+|#{1,6}\s+)+")
_JSON_START = re.compile(r"[\[{]")
_JSON_STEP = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\*|-?\d{1,6})\]")
_JSON_PATH = re.compile(rf"\$?(?:{_JSON_STEP.pattern})*")
_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?:\.\d{1,9})?(?![\w]|\.\d)")


def last_line(completion: str) -> str:
    """The last line that is not blank; empty if there is none."""
    return next((line.strip() for line in reversed(completion.splitlines()) if line.strip()), "")


def last_word(completion: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that comes last on the completion's last line, in any case; ``None`` if none does."""
    found = None
    known = {word.casefold(): word for word in words}
    for word in re.findall(r"\w+", last_line(completion)):
        found = known.get(word.casefold(), found)
    return found


def value_of_words(completions: Iterable[str], values: Mapping[str, float], *, otherwise: float = 0.0) -> float:
    """The sum over completions of the value of the word each ends with (Yao et al. 2023, section 3, "value").

    Args:
        completions: What the model said, one text per sample.
        values: What each word is worth.
        otherwise: What a completion is worth that ends with none of them.
    """
    total = 0.0
    for completion in completions:
        word = last_word(completion, values)
        total += otherwise if word is None else values[word]
    return total


def rating(completion: str, *, lowest: float = 1.0, highest: float = 10.0) -> float | None:
    """The last number on the last line if it is on the scale, ``None`` for a grade off the scale or none at all."""
    numbers = _NUMBER.findall(last_line(completion))
    if not numbers:
        return None
    value = float(numbers[-1])
    return value if lowest <= value <= highest else None


def choice(completion: str, num_choices: int) -> int | None:
    """The index, from 0, of the choice that the last line names by its number, from 1; ``None`` if it names none."""
    value = rating(completion, lowest=1, highest=num_choices)
    return int(value) - 1 if value is not None and value.is_integer() else None


def last_number(completion: str) -> Fraction | None:
    """The last number in a text, exactly: ``1,234.5`` and ``7/2`` are numbers too; ``None`` if there is none."""
    found = _EXACT.findall(completion[-_MAX_TEXT:])
    return canonical_number(found[-1]) if found else None


def all_numbers(text: str) -> list[Fraction]:
    """All numbers in a text, exactly, in their order."""
    numbers = (canonical_number(found) for found in _EXACT.findall(text[:_MAX_TEXT]))
    return [number for number in numbers if number is not None]


def listed_lines(completion: str) -> list[str]:
    """The lines that are not blank, without the bullets and numbers of lists before them."""
    lines = (_BULLET.sub("", line).strip() for line in completion.splitlines())
    return [line for line in lines if line]


def last_option(completion: str, options: Iterable[str], *, ignore_case: bool = True) -> str | None:
    """The one of ``options`` that comes last in a text, as words of its own; ``None`` if none does.

    Of options that end at the same place the longest counts: ``not sure`` before ``sure``.
    """
    known = sorted({option for option in options if option}, key=len, reverse=True)
    if not known:
        return None
    text = completion[-_MAX_TEXT:]
    names = "|".join(map(re.escape, known))
    pattern = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE if ignore_case else re.NOFLAG)
    found = pattern.findall(text)
    if not found:
        return None
    if not ignore_case:
        return str(found[-1])
    return next(option for option in known if option.casefold() == found[-1].casefold())


def json_in(completion: str) -> Any:
    """The last JSON object or list in a text that is not within another; ``None`` if there is none."""
    text = completion[-_MAX_TEXT:]
    decoder = json.JSONDecoder()
    found, place, tries = None, 0, 0
    while (match := _JSON_START.search(text, place)) is not None and tries < _MAX_JSON_TRIES:
        tries += 1
        try:
            found, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            place = match.end()
    return found


def json_steps(path: str) -> list[str | int | None] | None:
    """The steps of a path such as ``$.items[0].name`` or ``items[*]`` (``None`` for ``*``); ``None`` if it is none."""
    if not _JSON_PATH.fullmatch(path):
        return None
    steps: list[str | int | None] = []
    for name, index in _JSON_STEP.findall(path.removeprefix("$")):
        steps.append(name or (None if index == "*" else int(index)))
    return steps


def json_at(value: Any, steps: Sequence[str | int | None]) -> list[Any]:
    """What is found at a path in a JSON value: nothing, one thing, or several where a step is ``*``."""
    found = [value]
    for step in steps:
        if step is None:
            found = [item for each in found if isinstance(each, list) for item in each]
        elif isinstance(step, int):
            found = [each[step] for each in found if isinstance(each, list) and -len(each) <= step < len(each)]
        else:
            found = [each[step] for each in found if isinstance(each, dict) and step in each]
    return found
