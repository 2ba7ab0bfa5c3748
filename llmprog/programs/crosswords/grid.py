"""5x5 crosswords: ten clues, a grid of letters, and how much of a grid is right."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from llmprog.errors import InputError

SIDE = 5
OPEN = "_"
ENTRIES = tuple(f"{way}{i + 1}" for way in "hv" for i in range(SIDE))
"""The names of the ten words: h1 to h5 across, from the top, and v1 to v5 down, from the left."""

_CLUE = re.compile(r"(?:([hv][1-5])\s*[.:)]\s*)?(\S.*)", re.IGNORECASE)
_SOLUTION = re.compile(r"solution\s*:\s*(.*)", re.IGNORECASE)
_MAX_CLUE = 300


@dataclass(frozen=True, slots=True)
class Crossword:
    """A puzzle.

    Attributes:
        clues: One for each of ``ENTRIES``.
        solution: The letters row by row, lower case; empty where it is not known. No model is shown it.
    """

    clues: tuple[str, ...]
    solution: str = ""


def cells_of(entry: str) -> range:
    """The cells of a word, from its first letter on, numbered row by row."""
    i = int(entry[1]) - 1
    return range(i * SIDE, i * SIDE + SIDE) if entry[0] == "h" else range(i, SIDE * SIDE, SIDE)


def letters_of(letters: str, entry: str) -> str:
    """The letters of a word in a grid, ``OPEN`` where there is none yet."""
    return "".join(letters[cell] for cell in cells_of(entry))


def with_word(letters: str, entry: str, word: str) -> str | None:
    """The grid with a word entered; ``None`` if that would change a letter."""
    made = list(letters)
    for cell, letter in zip(cells_of(entry), word, strict=True):
        if made[cell] not in (OPEN, letter):
            return None
        made[cell] = letter
    return "".join(made)


def rows_of(letters: str) -> str:
    """A grid as five lines."""
    return "\n".join(letters[i : i + SIDE] for i in range(0, len(letters), SIDE))


@cache
def bundled() -> tuple[Crossword, ...]:
    """The puzzles that come with the program."""
    text = resources.files(__package__).joinpath("puzzles.toml").read_text(encoding="utf-8")
    made = []
    for puzzle in tomllib.loads(text)["puzzles"]:
        clues = tuple(clue for _, clue in (*puzzle["across"], *puzzle["down"]))
        made.append(Crossword(clues, "".join(word for word, _ in puzzle["across"])))
    return tuple(made)


def parse_crossword(text: str) -> Crossword:
    """A puzzle from its ten clues on lines, those across first; or a bundled one by its number.

    A line may begin with the name of its word, such as ``h1.``; an eleventh line ``Solution:`` with the five words
    across may follow.

    Raises:
        InputError: It is neither.
    """
    text = str(text).strip()
    if re.fullmatch(r"[0-9]{1,3}", text):
        if not 1 <= int(text) <= len(bundled()):
            raise InputError(f"crosswords: no puzzle {text}; the bundled ones are 1 to {len(bundled())}")
        return bundled()[int(text) - 1]
    clues: dict[str, str] = {}
    solution = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := _SOLUTION.fullmatch(line):
            solution = "".join(found[1].split()).lower()
            if not re.fullmatch(r"[a-z]{25}", solution):
                raise InputError(f"crosswords: the solution is {found[1][:60]!r}; {_FORM}")
        elif (clue := _CLUE.fullmatch(line[: _MAX_CLUE + 10])) and len(clues) < len(ENTRIES):
            clues[clue[1].lower() if clue[1] else ENTRIES[len(clues)]] = clue[2]
        else:
            raise InputError(f"crosswords: {line[:60]!r} is one line too many; {_FORM}")
    if missing := [entry for entry in ENTRIES if entry not in clues]:
        raise InputError(f"crosswords: no clue for {', '.join(missing)}; {_FORM}")
    return Crossword(tuple(clues[entry] for entry in ENTRIES), solution)


_FORM = (
    "give the number of a bundled puzzle, or ten lines with a clue each (h1 to h5 across, v1 to v5 down), and perhaps "
    "a line such as 'Solution: chase revel alone fling today'"
)


# ----------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True, slots=True)
class Measures:
    """How much of some grids is right: shares from 0 to 1.

    Attributes:
        letters: Of 25 letters each.
        words: Of ten words each.
        games: Grids that are right altogether.
    """

    letters: float
    words: float
    games: float


def measure(grids: Sequence[str | None], solutions: Iterable[str]) -> Measures:
    """The measures of Yao et al. 2023 (arXiv 2305.10601, section 4.3): letters, words and games that are right.

    Args:
        grids: Answers of the program, whole or in part; line breaks and case do not matter. ``None`` is an empty grid.
        solutions: Their solutions, in the same order.
    """
    letters = words = games = 0
    for grid, solution in zip(grids, solutions, strict=True):
        given = "".join((grid or "").split()).lower().ljust(SIDE * SIDE, OPEN)
        letters += sum(a == b for a, b in zip(given, solution, strict=True))
        words += sum(letters_of(given, entry) == letters_of(solution, entry) for entry in ENTRIES)
        games += given == solution
    count = max(1, len(grids))
    return Measures(letters / (count * SIDE * SIDE), words / (count * len(ENTRIES)), games / count)
