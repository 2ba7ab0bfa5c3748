"""The keyword_count program: counting exactly, its errors, how counts are read, and parts that are added up."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.keyword_count import (
    COUNTRIES,
    count_keywords,
    keyword_count,
    num_errors,
    parse_text,
    random_text,
    read_counts,
)

TEXT = "The ship left Peru with tea. In Chile we ate better than in Peru! Nobody had ever been to New Zealand."


def exact(prompt: str, sample: int) -> str:
    """Counts the countries of the task of a prompt, or adds its counts up."""
    task = prompt.rpartition("\n\n")[2]
    if task.startswith("First:"):
        first, second = (json.loads(line.partition(": ")[2]) for line in task.splitlines()[:2])
        return json.dumps(Counter(first) + Counter(second))
    text = task.removeprefix("Text: ").partition("\n")[0]
    return "Counts: " + json.dumps(count_keywords(text, COUNTRIES))


# ------------------------------------------------------------------------------------------------- errors


def test_keywords_are_counted_as_words_of_their_own_in_any_case():
    assert count_keywords(TEXT, COUNTRIES) == {"Peru": 2, "Chile": 1, "New Zealand": 1}
    assert count_keywords("peru, Peruvian, PERU's", COUNTRIES) == {"Peru": 2}
    assert count_keywords("green tea and tea", ("tea", "green tea")) == {"green tea": 1, "tea": 1}
    assert count_keywords("C++ and c++", ("C++",)) == {"C++": 2}


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        ({"Peru": 2, "Chile": 1, "New Zealand": 1}, 0),
        ({"peru": 2, "CHILE": 1, "New Zealand": 1, "Cuba": 0}, 0),
        ({"Peru": 1, "Chile": 1, "New Zealand": 1}, 1),
        ({"Peru": 5, "New Zealand": 1}, 4),  # three too many, and one missing
        ({"Peru": 2, "Chile": 1, "New Zealand": 1, "Atlantis": 3}, 3),
        ({}, 4),
    ],
)
def test_errors_are_the_summed_differences_of_the_counts(answer, errors):
    assert num_errors(TEXT, COUNTRIES, answer) == errors


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        ('{"Peru": 1, "New Zealand": 2}', (("Peru", 1), ("New Zealand", 2))),
        ('First {"Peru": 9}.\nCounts: {"Peru": 1, "Chile": 0}', (("Peru", 1),)),
        ("Peru: 1\n- **Chile**: 2\n* Côte d'Ivoire = 3", (("Peru", 1), ("Chile", 2), ("Côte d'Ivoire", 3))),
        ('{"Peru": 1, "Chi', (("Peru", 1),)),
        ("{}", ()),
        ("Peru and Chile", None),
        ("", None),
    ],
)
def test_counts_are_read_however_they_are_written(reply, counts):
    assert read_counts(reply) == counts


@given(st.text(alphabet='{}":= aé1\n', max_size=200))
def test_any_reply_gives_counts_or_none(text):
    found = read_counts(text)
    assert found is None or all(count > 0 for _, count in found)


def test_reading_takes_linear_time():
    assert read_counts("a " * 50_000) is None
    assert read_counts("{" * 50_000) == ()
    assert read_counts("a: " * 30_000) is None


def test_a_text_is_split_into_sentences():
    assert parse_text("One. Two!  Three?\nFour") == ("One.", "Two!", "Three?", "Four")
    with pytest.raises(InputError, match="keyword_count: a text of 1 characters and 0 sentences"):
        parse_text(" ")


@given(st.integers(1, 12), st.integers(0, 1000))
def test_random_texts_are_the_same_for_the_same_seed(num_sentences, seed):
    text = random_text(num_sentences, random.Random(seed))
    assert text == random_text(num_sentences, random.Random(seed))
    assert len(parse_text(text)) == num_sentences


# ------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(("method", "calls"), [("io", 1), ("cot", 1), ("tot", 10), ("got", 5)])
def test_keywords_are_counted_by_every_method(method, calls):
    result = keyword_count(method=method).run(TEXT, backend=ScriptedBackend(exact), seed=1)
    assert (result.solved, result.answer) == (True, "Peru: 2, Chile: 1, New Zealand: 1")
    assert result.usage.calls == calls


def test_parts_are_counted_and_added_up():
    text = random_text(10, random.Random(4))
    backend = ScriptedBackend(exact)
    result = keyword_count(part_size=3, num_samples=1).run(text, backend=backend, seed=1)
    assert result.solved
    assert dict(result.thought.state.answer) == count_keywords(text, COUNTRIES)
    asked = [request.prompt.text.partition(" ")[0] for request in backend.requests]
    assert (asked.count("Count"), asked.count("Add")) == (4, 3)


def test_keywords_of_ones_own_are_named_in_the_prompt():
    backend = ScriptedBackend(lambda prompt, sample: "tea: 1")
    result = keyword_count(method="io", keywords="tea, coffee").run("We had tea.", backend=backend, seed=1)
    assert result.solved
    assert "how often the text names each of these: tea, coffee" in backend.requests[0].prompt.text
    with pytest.raises(OptionError, match="keywords=' ,'; allowed are words separated by commas"):
        keyword_count(keywords=" ,")
