"""recursive_summary: splitting is exact, and the number and the length of calls are bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.recursive_summary import (
    MAX_TRIES,
    estimated_tokens,
    most_calls,
    recursive_summary,
    sentences_of,
    shortened,
    split_text,
)

TEXTS = st.text(st.sampled_from("ab .!?\n…é猫😀\"'"), max_size=400) | st.text(max_size=200)


@given(TEXTS)
def test_sentences_are_the_text(text):
    assert "".join(sentences_of(text)) == text


@given(TEXTS, st.integers(2, 60))
@example("猫" * 50, 2)
@example("\ud800" * 9, 2)
def test_chunks_are_the_text_and_each_fits(text, max_tokens):
    chunks = split_text(text, max_tokens)
    assert "".join(chunks) == text
    assert all(0 < estimated_tokens(chunk) <= max_tokens for chunk in chunks)


@given(TEXTS, st.integers(2, 60))
def test_chunks_end_where_sentences_end_where_these_fit(text, max_tokens):
    sentences = sentences_of(text)
    if all(estimated_tokens(sentence) <= max_tokens for sentence in sentences):
        ends, place = set(), 0
        for sentence in sentences:
            place += len(sentence)
            ends.add(place)
        place = 0
        for chunk in split_text(text, max_tokens):
            place += len(chunk)
            assert place in ends


@given(TEXTS, st.integers(2, 60))
def test_a_chunk_takes_in_as_much_as_fits(text, max_tokens):
    chunks = split_text(text, max_tokens)
    if all(estimated_tokens(sentence) <= max_tokens for sentence in sentences_of(text)):
        for chunk, following in pairwise(chunks):
            assert estimated_tokens(chunk + sentences_of(following)[0]) > max_tokens


def test_where_sentences_end():
    text = 'It rained. "Really?" she asked (twice). Yes… No\n\nA heading\n\nThe end'
    assert sentences_of(text) == [
        "It rained. ", '"Really?" ', "she asked (twice). ", "Yes… ", "No\n\n", "A heading\n\n", "The end",
    ]  # fmt: skip


@given(TEXTS, st.integers(2, 60))
def test_what_is_shortened_is_a_beginning_that_fits(text, max_tokens):
    short = shortened(text, max_tokens)
    assert text.strip().startswith(short)
    assert estimated_tokens(short) <= max_tokens


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["." * 200_000 + "x", "\n " * 100_000 + "x", "猫" * 200_000, "?!" * 100_000 + '"'])
def test_hostile_texts_take_linear_time(text):
    assert "".join(split_text(text, 500)) == text


def test_too_small_a_chunk_is_refused():
    with pytest.raises(OptionError, match="max_tokens=1"):
        split_text("x", 1)


STORY = " ".join(f"On day {i} the ship sailed {i * 7} miles." for i in range(400))


@pytest.mark.parametrize("wordy", [False, True])
def test_every_call_is_bounded_and_so_is_their_number(wordy):
    backend = ScriptedBackend(lambda text, sample: STORY if wordy else "The ship sailed on.")
    chunk_tokens, summary_tokens = 200, 50
    program = recursive_summary(chunk_tokens=chunk_tokens, summary_tokens=summary_tokens)
    result = program.run(STORY, backend=backend, seed=1)
    assert result.solved
    assert estimated_tokens(result.answer) <= summary_tokens
    assert len(backend.requests) <= most_calls(estimated_tokens(STORY), chunk_tokens, summary_tokens)
    assert all(estimated_tokens(request.prompt.text) <= chunk_tokens + 60 for request in backend.requests)
    assert len(result.parts["rounds"].parts) > 1 or not wordy


@settings(max_examples=15)
@given(TEXTS.filter(lambda text: text.strip()), st.integers(8, 12), st.integers(4, 6))
def test_any_text_is_summarised_within_the_bound(text, summary_tokens, ratio):
    chunk_tokens = summary_tokens * ratio
    backend = ScriptedBackend(lambda text, sample: "word " * 100)
    program = recursive_summary(chunk_tokens=chunk_tokens, summary_tokens=summary_tokens)
    result = program.run(text if not text.endswith((".txt", ".md")) else text + " ", backend=backend, seed=1)
    assert result.solved
    assert len(backend.requests) <= most_calls(estimated_tokens(text), chunk_tokens, summary_tokens)


def test_a_text_that_fits_is_summarised_at_once():
    backend = ScriptedBackend(lambda text, sample: "Short.")
    result = recursive_summary().run("It rained all day.", backend=backend, seed=1)
    assert result.answer == "Short."
    assert len(backend.requests) == 1


def test_a_model_that_says_nothing_is_asked_again_and_then_reported():
    backend = ScriptedBackend(lambda text, sample: "" if sample == 0 else "Rain.")
    assert recursive_summary().run("It rained.", backend=backend, seed=1).answer == "Rain."
    silent = ScriptedBackend(lambda text, sample: " ")
    result = recursive_summary().run("It rained.", backend=silent, seed=1)
    assert not result.solved
    assert "replied with nothing, 3 times" in result.explanation
    assert len(silent.requests) == MAX_TRIES


def test_files(tmp_path):
    (tmp_path / "story.txt").write_text(STORY)
    backend = ScriptedBackend(lambda text, sample: "The ship sailed on.")
    assert recursive_summary().run(str(tmp_path / "story.txt"), backend=backend, seed=1).solved
    with pytest.raises(InputError, match="cannot be read"):
        recursive_summary().run("none.txt", backend=backend, seed=1)
    with pytest.raises(InputError, match="not blank"):
        recursive_summary().run(" \n ", backend=backend, seed=1)


@pytest.mark.parametrize("setting", [{"summary_tokens": 4}, {"chunk_tokens": 300, "summary_tokens": 100}])
def test_settings_that_would_not_shorten(setting):
    with pytest.raises(OptionError, match="has to shorten the text"):
        recursive_summary(**setting)
