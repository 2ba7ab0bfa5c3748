"""Parsers for the bodies of checkers: verdicts by words, ratings by numbers, choices by index.

All are pure and total: any text gives a value or ``None``, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
