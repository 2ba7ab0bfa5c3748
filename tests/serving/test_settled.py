"""What of a reply under way is sent: pieces that add up to the reply, and never more than is certain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.serving.faults import RequestError
from llmprog.serving.settled import SettledText
from llmprog.types import Delta


def pieces_of(deltas, stops=()):
    settled = SettledText(stops)
    return settled, [settled.add(delta) for delta in deltas]


TEXTS = st.text(alphabet="abcé ", max_size=30)


@given(st.lists(TEXTS), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_what_is_appended_comes_out_cut_at_the_first_stop(pieces, stops):
    whole = "".join(pieces)
    final = whole[: min((whole.index(stop) for stop in stops if stop in whole), default=len(whole))]
    settled, sent = pieces_of([Delta(sample=0, text=piece) for piece in pieces], stops)
    assert final.startswith("".join(sent))
    assert "".join(sent) + settled.finish(final) == final


@given(st.data())
def test_of_what_replaces_only_what_is_settled_comes_out(data):
    final = data.draw(TEXTS)
    counts = sorted(data.draw(st.lists(st.integers(0, len(final)))))
    deltas = [Delta(sample=0, text=final[:n] + "▒▒?", replaces=True, num_settled=n) for n in counts]
    settled, sent = pieces_of(deltas)
    assert "".join(sent) == final[: max(counts, default=0)]
    assert "".join(sent) + settled.finish(final) == final


def test_half_a_character_waits_for_the_rest():
    settled, sent = pieces_of([Delta(sample=0, text=text, replaces=True, num_settled=2) for text in ("a\ufffd", "aé")])
    assert sent == ["a", "é"]
    assert settled.finish("aé") == ""


def test_half_a_character_may_be_the_next_one_of_a_stop():
    deltas = [Delta(sample=0, text=text, replaces=True, num_settled=3) for text in ("ab\ufffd", "abé")]
    settled, sent = pieces_of(deltas, stops=("bé",))
    assert sent == ["a", ""]
    assert settled.finish("a") == ""


def test_a_possible_stop_is_held_back_until_it_is_none():
    _, sent = pieces_of([Delta(sample=0, text=text) for text in ("go on\n", "\nno", "w END")], stops=("\n\nQ", "END!"))
    assert sent == ["go on", "\n\nno", "w "]


def test_a_reply_that_begins_anew_after_a_part_was_sent_is_an_error():
    deltas = [Delta(sample=0, text="one"), Delta(sample=0, text="", replaces=True), Delta(sample=0, text="two")]
    settled, sent = pieces_of(deltas)
    assert sent == ["one", "", ""]
    with pytest.raises(RequestError, match="begun anew"):
        settled.finish("two")
