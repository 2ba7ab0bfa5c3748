"""The crosswords program: words with confidences are proposed, entered depth-first, and given up where no word fits.

Set-up of Yao et al. 2023 (arXiv 2305.10601, section 4.3): a word's confidences (certain 1, high 0.5, medium 0.2, low
0.1) are summed over samples; the best first; a grid is given up when a clue that is left is judged impossible; at most
100 grids. Beyond it: only clues whose letters the last word has changed are judged again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmprog.nodes import Checker, Generator, Model, Verdict, checker, generator
from llmprog.parsers import last_word
from llmprog.program import Program
from llmprog.programs.crosswords.grid import (
    ENTRIES,
    OPEN,
    SIDE,
    Crossword,
    letters_of,
    parse_crossword,
    rows_of,
    with_word,
)
from llmprog.search import DepthFirstSearch
from llmprog.tasks import gather_or_cancel

CONFIDENCES = {"certain": 1.0, "high": 0.5, "medium": 0.2, "low": 0.1}
JUDGEMENTS = ("sure", "maybe", "impossible")
FEWEST_LETTERS = 2
"""A clue of which fewer letters are known is not judged: nearly anything fits."""

_PROPOSAL = re.compile(
    r"\W*([hv][1-5])\s*[.:)]\s*\W*([a-z]{5})\W*\s\(\s*(certain|high|medium|low)\s*\)", re.IGNORECASE | re.ASCII
)
_MAX_LINE = 200


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid on the way to being full.

    Attributes:
        puzzle: The clues.
        letters: Row by row, ``_`` where there is none yet.
        words: What was entered, such as ``h1 chase``, in order.
        confidence: The sum of the confidences in the last word.
    """

    puzzle: Crossword
    letters: str = OPEN * SIDE * SIDE
    words: tuple[str, ...] = ()
    confidence: float = 0.0

    @property
    def board(self) -> str:
        """The grid as five lines."""
        return rows_of(self.letters)

    @property
    def clues(self) -> str:
        """The clues of words that are not full, each with the letters that are known."""
        return "\n".join(
            f"{entry}. {clue}: {letters_of(self.letters, entry)}"
            for entry, clue in zip(ENTRIES, self.puzzle.clues, strict=True)
            if OPEN in letters_of(self.letters, entry)
        )

    def __str__(self) -> str:
        return f"{self.words[-1]} ({self.confidence:g})" if self.words else "an empty grid"


_PROPOSE_PROMPT = (
    "We fill in a crossword of 5 by 5 letters: h1 to h5 are the words across, from top to bottom, v1 to v5 those down, "
    "from left to right. Every word has five letters; unknown letters are shown as _.\n\n"
    "{board}\n\nWords that are missing:\n{clues}\n\n"
    "For as many of them as you can, give words that fit the clue and the known letters, and how confident you are: "
    "certain, high, medium or low. Write one per line, in this form and nothing else:\nh1. apple (medium)\n"
)
_JUDGE_PROMPT = (
    "Is there a word of five letters that fits this clue and these letters? Reason briefly, then give the verdict "
    "alone on the last line: sure (you know one), maybe, or impossible.\n\n"
)


def summed_confidences(completions: list[str]) -> dict[tuple[str, str], float]:
    """Every word that is proposed for an entry, with its confidences summed over the samples, in the order found."""
    found: dict[tuple[str, str], float] = {}
    for completion in completions:
        for line in completion.splitlines():
            if match := _PROPOSAL.match(line[:_MAX_LINE]):
                proposal = (match[1].lower(), match[2].lower())
                found[proposal] = found.get(proposal, 0.0) + CONFIDENCES[match[3].lower()]
    return found


def propose_words(max_children: int, num_samples: int, temperature: float, max_tokens: int) -> Generator:
    """A generator of the ``max_children`` grids with the words of highest confidence that change no letter."""

    @generator(prompt=_PROPOSE_PROMPT, name="propose", n=num_samples, temperature=temperature, max_tokens=max_tokens)
    def propose(state: Grid, completions: list[str]) -> Iterator[Grid]:
        ranked = sorted(summed_confidences(completions).items(), key=lambda item: -item[1])
        num_made = 0
        for (entry, word), confidence in ranked:
            letters = with_word(state.letters, entry, word)
            if letters is None or letters == state.letters:
                continue
            yield Grid(state.puzzle, letters, (*state.words, f"{entry} {word}"), confidence)
            num_made += 1
            if num_made == max_children:
                return

    return propose


@checker
def progress(state: Grid) -> float:
    """The number of words entered: of the grids that were reached, the fullest is the answer."""
    return float(len(state.words))


def to_be_judged(state: Grid) -> list[tuple[str, str]]:
    """Clues, with their letters, that the last word has changed: those that cross it and are not entered themselves."""
    if not state.words:
        return []
    entered = {word.split()[0] for word in state.words}
    last = state.words[-1][:2]
    found = []
    for entry, clue in zip(ENTRIES, state.puzzle.clues, strict=True):
        letters = letters_of(state.letters, entry)
        if entry[0] != last[0] and entry not in entered and SIDE - letters.count(OPEN) >= FEWEST_LETTERS:
            found.append((clue, letters))
    return found


def judge_clues(temperature: float, max_tokens: int) -> Checker:
    """A checker that asks, clue by clue, whether a word still fits; one that is impossible refuses the grid."""

    @checker(name="judge", temperature=temperature, max_tokens=max_tokens)
    async def judge(state: Grid, model: Model) -> Verdict:
        asked = to_be_judged(state)
        prompts = [f"{_JUDGE_PROMPT}{clue}: {' '.join(letters)}\n" for clue, letters in asked]
        replies = await gather_or_cancel(model.generate(prompt) for prompt in prompts)
        for (clue, letters), (completion,) in zip(asked, replies, strict=True):
            if last_word(completion.text, JUDGEMENTS) == "impossible":
                return Verdict(valid=False, reason=f"no word fits {letters}: {clue}")
        return Verdict()

    return judge


def crosswords(
    *,
    num_samples: int = 8,
    max_children: int = 3,
    max_states: int = 100,
    prune: bool = True,
    temperature: float = 0.7,
    max_tokens: int = 400,
) -> Program:
    """Fill in a 5x5 crossword from its ten clues, depth-first, by words that a model proposes and judges.

    Args:
        num_samples: Lists of words drawn for a grid; their confidences are summed.
        max_children: Words tried for a grid, those of highest confidence first.
        max_states: Grids looked at.
        prune: Give a grid up when a clue that is left is judged impossible.
        temperature: Of proposals and judgements.
        max_tokens: Longest list of words, and longest judgement, in the model's tokens.
    """
    return Program(
        name="crosswords",
        start=_first_grid,
        generators=[propose_words(max_children, num_samples, temperature, max_tokens)],
        checkers=[progress, judge_clues(temperature, max_tokens)] if prune else [progress],
        controller=DepthFirstSearch(max_depth=len(ENTRIES), max_thoughts=max_states),
        goal=_is_full,
        answer=_board,
        key=_letters,
        explain=_explain,
    )


def _first_grid(text: str) -> Grid:
    return Grid(parse_crossword(text))


def _is_full(state: Grid) -> bool:
    return OPEN not in state.letters


def _board(state: Grid) -> str:
    return state.board


def _letters(state: Grid) -> str:
    return state.letters


def _explain(state: Grid) -> str:
    return (
        "the grid could not be filled: the model proposed too few words that fit together; the fullest grid that was "
        "reached is the answer; raise num_samples or max_states, or use a larger model"
    )
