"""Arithmetic questions that the embedded model was not trained on: what several benchmarks ask."""

from __future__ import annotations

import random

from llmprog.backends.local.puzzles.data import random_question
from llmprog.backends.local.puzzles.split import split_of_text


def held_out_questions(count: int, seed: int) -> list[str]:
    """Expressions of the test split, of the kind and difficulty that training drew from the others."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        question = random_question(rng, rng.choice((3, 3, 4, 4, 5)))
        if question is not None and split_of_text(question.text) == "test":
            found[question.text] = None
    return list(found)
