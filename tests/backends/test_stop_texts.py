from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.stop_texts import cut_at_stop, settled_text

TEXTS = st.text(alphabet="abé", max_size=20)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3)


def test_the_stop_text_that_begins_first_cuts() -> None:
    assert cut_at_stop("one two three", ("three", "two")) == "one "
    assert cut_at_stop("one two three", ("four",)) == "one two three"


def test_what_may_become_a_stop_text_is_not_settled() -> None:
    assert settled_text("go on\n", ("\n\nQ", "on\n.")) == "go "
    assert settled_text("go on\n", ()) == "go on\n"
    assert settled_text("ab\ufffd", ("bé",)) == "a"


@given(TEXTS, TEXTS, STOPS)
def test_what_is_settled_begins_every_reply_that_goes_on_from_there(text: str, more: str, stops: list[str]) -> None:
    assert cut_at_stop(text + more, stops).startswith(settled_text(text, stops))


@given(TEXTS.filter(bool), STOPS)
def test_half_a_character_settles_no_more_than_the_whole_one(text: str, stops: list[str]) -> None:
    half = (text[:-1].encode() + text[-1].encode()[:1]).decode("utf-8", "replace")
    assert cut_at_stop(text, stops).startswith(settled_text(half, stops))


@given(TEXTS, STOPS)
def test_all_is_settled_but_what_begins_a_stop_text(text: str, stops: list[str]) -> None:
    cut = cut_at_stop(text, stops)
    held = cut[len(settled_text(text, stops)) :]
    assert not held or any(stop.startswith(held) and stop != held for stop in stops)
