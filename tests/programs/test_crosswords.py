"""The crosswords program: its published rules, parsers and search, on scripted answers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError
from llmprog.programs.crosswords import Crossword, bundled, crosswords, measure, parse_crossword
from llmprog.programs.crosswords.grid import ENTRIES, OPEN, letters_of, with_word
from llmprog.programs.crosswords.program import Grid, summed_confidences, to_be_judged
from llmprog.search import Status

EMPTY = OPEN * 25
FIRST = bundled()[0]  # chase revel alone fling today


def words_of(puzzle: Crossword) -> dict[str, str]:
    return {entry: letters_of(puzzle.solution, entry) for entry in ENTRIES}


def is_proposal(prompt: str) -> bool:
    return "Words that are missing" in prompt


# ------------------------------------------------------------------------------------------------- rules


def test_confidences_are_summed_over_samples_by_their_published_values() -> None:
    completions = [
        "h1. chase (certain)\nh2. revel (high)\nv1. craft (low)",
        "v1. craft (medium)\nh1. chase (medium)\nh1. catch (low)\nh3. alone",
        "H1. Chase (High) since one runs\nv1. craft (low)\nh4. flings (certain)",
    ]
    assert summed_confidences(completions) == {
        ("h1", "chase"): pytest.approx(1 + 0.2 + 0.5),
        ("h2", "revel"): 0.5,
        ("v1", "craft"): pytest.approx(0.1 + 0.2 + 0.1),
        ("h1", "catch"): 0.1,
    }


@pytest.mark.parametrize(
    "line", ["h1. chase (certain)", "- h1. chase (certain)", "**h1.** chase (certain)", "1) h1: CHASE ( certain )"]
)
def test_a_proposal_may_be_decorated(line: str) -> None:
    found = summed_confidences([line])
    assert found == ({} if line.startswith("1)") else {("h1", "chase"): 1.0})


@given(st.lists(st.text(max_size=300), max_size=3))
def test_proposals_are_read_from_any_text(texts: list[str]) -> None:
    assert all(confidence > 0 for confidence in summed_confidences(texts).values())


def test_a_word_that_changes_a_letter_does_not_fit() -> None:
    letters = with_word(EMPTY, "h1", "chase")
    assert letters == "chase" + OPEN * 20
    assert with_word(letters, "v1", "river") is None
    assert with_word(letters, "v1", "craft") == "chaser____a____f____t____"
    assert with_word(letters, "h1", "chase") == letters


def test_clues_are_judged_once_two_letters_are_known_and_only_where_the_last_word_changed_them() -> None:
    letters = with_word(with_word(EMPTY, "h1", "chase") or "", "h2", "revel") or ""
    state = Grid(FIRST, letters, ("h1 chase", "h2 revel"))
    assert [shown for _, shown in to_be_judged(state)] == ["cr___", "he___", "av___", "se___", "el___"]
    after = with_word(letters, "v1", "craft") or ""
    state = Grid(FIRST, after, ("h1 chase", "h2 revel", "v1 craft"))
    assert (
        to_be_judged(state) == []
    )  # of the words across, h1 and h2 are entered, and of the others one letter is known
    assert to_be_judged(Grid(FIRST)) == []


def test_measures_are_shares_of_letters_words_and_games() -> None:
    other = bundled()[1]
    right = measure([FIRST.solution.upper()], [FIRST.solution])
    assert (right.letters, right.words, right.games) == (1, 1, 1)
    part = measure(["chase\nrevel", None], [FIRST.solution, other.solution])
    assert (part.letters, part.words, part.games) == (10 / 50, 2 / 20, 0)


# ----------------------------------------------------------------------------------------------- puzzles


def test_the_bundled_puzzles_are_ten_different_words_each() -> None:
    assert len(bundled()) == 8
    for puzzle in bundled():
        words = list(words_of(puzzle).values())
        assert len(set(words)) == len(words) == len(puzzle.clues) == 10
        for word, clue in zip(words, puzzle.clues, strict=True):
            assert not re.search(rf"\b{word}\b", clue, re.IGNORECASE)


def test_the_words_down_are_those_their_clues_ask_for() -> None:
    assert words_of(FIRST)["v1"] == "craft"
    assert FIRST.clues[ENTRIES.index("v1")] == "A trade done with skilled hands"
    assert words_of(bundled()[7])["v2"] == "opera"
    assert bundled()[7].clues[ENTRIES.index("v2")] == "Play that is sung"


def test_a_puzzle_is_read_from_its_clues() -> None:
    named = "\n".join(f"{entry}. {clue}" for entry, clue in zip(ENTRIES, FIRST.clues, strict=True))
    assert parse_crossword(named) == Crossword(FIRST.clues)
    shuffled = "\n".join(reversed(named.splitlines()))
    assert parse_crossword(shuffled) == Crossword(FIRST.clues)
    with_solution = "\n".join(FIRST.clues) + "\nSolution: chase revel alone fling today"
    assert parse_crossword(with_solution) == FIRST == parse_crossword("1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no clue for h1, h2"),
        ("99", "no puzzle 99; the bundled ones are 1 to 8"),
        ("Run after\nTake delight", "no clue for h3"),
        ("\n".join(f"clue {i}" for i in range(11)), "'clue 10' is one line too many"),
        ("\n".join(FIRST.clues) + "\nSolution: short", "the solution is 'short'"),
    ],
)
def test_bad_input_says_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_crossword(text)
    assert complaint in str(caught.value)
    assert "ten lines with a clue each" in str(caught.value) or "the bundled ones" in str(caught.value)


# ------------------------------------------------------------------------------------------------ search


def test_words_are_tried_in_the_order_of_their_confidence() -> None:
    def script(prompt: str, sample: int) -> str:
        if not is_proposal(prompt):
            return "maybe"
        if "_____\n_____\n_____\n_____\n_____" in prompt:
            return "h3. alone (low)\nh1. chase (high)\nh2. revel (certain)\nh4. fling (medium)"
        return "none"

    result = crosswords(num_samples=2, max_children=3).run("1", backend=ScriptedBackend(script), seed=1)
    first = [thought.state for thought in result.graph if thought.depth == 1]
    assert [state.words for state in first] == [("h2 revel",), ("h1 chase",), ("h4 fling",)]
    assert [state.confidence for state in first] == [2.0, 1.0, 0.4]
    assert not result.solved
    assert result.answer == "_____\nrevel\n_____\n_____\n_____"
    assert "could not be filled" in (result.explanation or "")


def test_a_grid_is_given_up_when_a_clue_that_is_left_is_judged_impossible() -> None:
    """The wrong word comes first; the judge, asked about what crosses it, leads the search back."""
    words = words_of(FIRST)

    def script(prompt: str, sample: int) -> str:
        if is_proposal(prompt):
            lines = [f"{entry}. {word} (medium)" for entry, word in words.items()]
            return "\n".join(["h2. rover (certain)", *lines])
        letters = prompt.strip().splitlines()[-1].rpartition(": ")[2].replace(" ", "")
        fits = any(re.fullmatch(letters.replace(OPEN, "."), word) for word in words.values())
        return "Let me see.\n" + ("sure" if fits else "impossible")

    backend = ScriptedBackend(script)
    pruned = crosswords(num_samples=1).run("1", backend=backend, seed=1)
    assert pruned.solved
    assert pruned.answer == "chase\nrevel\nalone\nfling\ntoday"
    refused = [thought for thought in pruned.graph if thought.status is Status.INVALID]
    assert refused
    assert all("no word fits" in thought.verdicts[-1][1].reason for thought in refused)
    assert all("h2 rover" in thought.state.words for thought in refused)
    unpruned = crosswords(num_samples=1, prune=False).run("1", backend=backend, seed=1)
    assert not any(thought.status is Status.INVALID for thought in unpruned.graph)
    assert "rover" in unpruned.answer  # a full grid is as far as anybody without the solution can see
    assert measure([unpruned.answer], [FIRST.solution]).words == 0.7


def test_a_model_is_never_shown_the_solution() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "h1. chase (low)" if is_proposal(prompt) else "maybe")
    crosswords(num_samples=1).run("1", backend=backend, seed=1)
    assert backend.requests
    assert not any("revel" in request.prompt.text for request in backend.requests)


def test_at_most_so_many_grids_are_looked_at() -> None:
    def script(prompt: str, sample: int) -> str:
        if not is_proposal(prompt):
            return "maybe"
        return "\n".join(f"{entry}. {letter * 5} (low)" for entry, letter in zip(ENTRIES, "abcdefghij", strict=True))

    result = crosswords(num_samples=1, max_states=12).run("1", backend=ScriptedBackend(script), seed=1)
    assert result.stopped == "max_thoughts"
    assert len(result.graph) <= 12 + 3
