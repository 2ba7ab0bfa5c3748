"""The split is one fixed rule: these numbers may never change, because weights were trained by them."""

from __future__ import annotations

import hashlib
from itertools import combinations_with_replacement

from llmprog.backends.local.puzzles.moves import legal_moves
from llmprog.backends.local.puzzles.split import classic_puzzles, held_out_states, split_of_numbers, split_of_text


def test_the_rule_is_pinned() -> None:
    counts = {"train": 1530, "development": 88, "test": 202}
    assert {s: len(classic_puzzles(s)) for s in ("train", "development", "test")} == counts
    assert split_of_numbers((4, 9, 10, 13)) == "train"
    assert list(held_out_states().values()).count("test") == 1605
    assert list(held_out_states().values()).count("development") == 405


def test_the_rule_is_the_hash_of_the_sorted_numbers() -> None:
    for puzzle in list(combinations_with_replacement(range(1, 26), 4))[::500]:
        bucket = int.from_bytes(hashlib.sha256(" ".join(map(str, puzzle)).encode()).digest()[:8], "big") % 100
        expected = "test" if bucket < 10 else "development" if bucket < 15 else "train"
        assert split_of_numbers(puzzle) == split_of_numbers(puzzle[::-1]) == expected


def test_states_are_held_out_with_the_puzzles_that_lead_to_them() -> None:
    held_out = held_out_states()
    for split in ("development", "test"):
        for puzzle in classic_puzzles(split):
            for move in legal_moves(puzzle):
                assert split_of_numbers(move.left) != "train"
                assert split_of_numbers(move.left[::-1]) == held_out[move.left]
    for puzzle in classic_puzzles("test"):
        assert all(split_of_numbers(move.left) == "test" for move in legal_moves(puzzle))


def test_pairs_and_single_numbers_are_not_held_out() -> None:
    assert split_of_numbers((4, 6)) == split_of_numbers((24,)) == "train"


def test_texts_split_in_about_the_stated_shares() -> None:
    found = [split_of_text(str(i)) for i in range(4000)]
    assert 0.08 < found.count("test") / 4000 < 0.12
    assert 0.035 < found.count("development") / 4000 < 0.065
