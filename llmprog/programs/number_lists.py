"""Lists of whole numbers: as a program's input, exactly; in a model's reply, leniently."""

from __future__ import annotations

import re

from llmprog.errors import InputError

MAX_NUMBERS = 4096

_LIST = re.compile(r"\[([\d\s,]*)(?:\]|\Z)")
_NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w]|\.\d)")
_MAX_REPLY = 1_000_000  # the end of a longer reply is what is read


def parse_numbers(text: str, program: str) -> tuple[int, ...]:
    """The numbers of an input such as ``3 1 2``, ``3, 1, 2`` or ``[3, 1, 2]``.

    Args:
        text: The input.
        program: Whose, for the message.

    Raises:
        InputError: A word is not a whole number, or there are too few or too many of them.
    """
    words = str(text).replace(",", " ").replace("[", " ").replace("]", " ").split()
    for word in words:
        if not re.fullmatch(r"[0-9]{1,6}", word):
            raise InputError(
                f"{program}: {word[:40]!r} is not a whole number from 0 to 999999; give numbers such as 3 1 2"
            )
    if not 1 <= len(words) <= MAX_NUMBERS:
        raise InputError(f"{program}: {len(words)} numbers; allowed are 1 to {MAX_NUMBERS}, such as 3 1 2")
    return tuple(map(int, words))


def read_numbers(reply: str) -> tuple[int, ...] | None:
    """The last list in square brackets, else the numbers of the last line that has any; ``None`` if there are none.

    A list that the reply's end cuts short counts with what there is of it.
    """
    text = reply[-_MAX_REPLY:]
    lists = _LIST.findall(text)
    if lists:
        return tuple(map(int, _NUMBER.findall(lists[-1])))
    for line in reversed(text.splitlines()):
        if numbers := _NUMBER.findall(line):
            return tuple(map(int, numbers))
    return None
