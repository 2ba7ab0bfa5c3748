"""tools: a calculator, a search, and the loop that uses them."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.evidence_qa import bundled_paragraphs
from llmprog.programs.tools import BM25Index, Turn, calculate, search_documents, tools
from llmprog.programs.tools.program import read_turn
from llmprog.types import Completion

TEXTS = ["the cat sat on the mat", "the dog sat", "a bird sang", ""]


def test_bm25_by_hand():
    index = BM25Index(TEXTS, k1=1.2, b=0.5)
    ((first, score),) = index.search("cat")
    mean = (6 + 3 + 3 + 0) / 4
    weight = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    assert first == 0
    assert score == pytest.approx(weight * 2.2 / (1 + 1.2 * (0.5 + 0.5 * 6 / mean)))


def test_rare_words_count_more_and_what_shares_no_word_is_not_found():
    index = BM25Index(TEXTS)
    assert [number for number, _ in index.search("the dog")] == [1, 0]
    assert index.search("whale") == []
    assert index.scores("") == [0.0] * 4
    assert [number for number, _ in index.search("THE, cat!", limit=1)] == [0]
    assert BM25Index([]).search("cat") == []
    assert BM25Index([""]).search("cat") == []


@given(st.lists(st.text("ab ", max_size=12), max_size=6), st.text("abc ", max_size=8))
def test_scores_are_finite_and_positive_where_a_word_is_shared(documents, query):
    scores = BM25Index(documents).scores(query)
    for document, score in zip(documents, scores, strict=True):
        assert math.isfinite(score)
        assert (score > 0) == bool(set(document.split()) & set(query.split()))


@pytest.mark.parametrize("setting", [{"k1": -1}, {"b": 1.5}, {"k1": math.nan}])
def test_parameters_of_bm25_out_of_range(setting):
    with pytest.raises(OptionError, match="allowed are k1 >= 0"):
        BM25Index(TEXTS, **setting)


def test_the_calculator_is_exact_and_never_raises():
    assert calculate("(1/3 + 1/6) * 8") == "4"
    assert calculate("1 / 0").startswith("cannot be computed")
    assert calculate("__import__('os')").startswith("cannot be computed")


@pytest.mark.parametrize(
    ("reply", "turn"),
    [
        ("Thought: add\nAction: calculate[(3 + 4) * 2]", Turn("add", "calculate", "(3 + 4) * 2")),
        ("**Action:** Search[bats at night] and so on", Turn("", "search", "bats at night")),
        ("thought - x\n> action: answer: Paris\nAction: search[y]", Turn("x", "answer", "Paris")),
        ("Action: answer(42)", Turn("", "answer", "42")),
        ("Action: calculate[1 + 1", Turn("", "calculate", "1 + 1")),
        ("Action: fly[away]", Turn("", "none", "")),
        ("I like turtles.", Turn("", "none", "")),
    ],
)
def test_turns_are_read_leniently(reply, turn):
    assert read_turn(reply) == turn


@given(st.text())
def test_any_reply_is_a_turn(reply):
    assert read_turn(f"Action: {reply}").action in ("calculate", "search", "answer", "none")


def test_a_search_shows_documents_with_their_ids():
    found = search_documents(bundled_paragraphs(), limit=1)("camel hump fat")
    assert found.startswith("[animal-camel] The hump")
    assert search_documents(bundled_paragraphs())("zzz") == "no document holds one of these words"


def acting(*replies):
    return ScriptedBackend(lambda text, sample: replies[text.count("Result:")])


def test_reason_act_observe(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([{"id": "price", "text": "A ticket costs 12 euros."}]))
    backend = acting(
        "Thought: the price\nAction: search[ticket]",
        "Thought: times three\nAction: calculate[12 * 3]",
        "Thought: done\nAction: answer[36 euros]",
    )
    result = tools(documents=str(tmp_path / "d.json")).run("What do three tickets cost?", backend=backend, seed=1)
    assert (result.answer, result.solved) == ("36 euros", True)
    last = backend.requests[-1].prompt.text
    assert "Result: [price] A ticket costs 12 euros." in last
    assert "Result: 36" in last
    assert [*result.parts["turns"].parts] == ["1", "2", "3"]


def test_a_reply_without_an_action_is_told_so():
    backend = acting("Let me see.", "Action: answer[]", "Action: answer[yes]")
    result = tools().run("Well?", backend=backend, seed=1)
    assert result.answer == "yes"
    assert "no action was found" in backend.requests[1].prompt.text
    assert "the answer is missing" in backend.requests[2].prompt.text


def test_a_reply_that_is_cut_is_a_turn():
    cut = Completion(text="Thought: let me think about", finish_reason="length")
    backend = ScriptedBackend(lambda text, sample: "Action: answer[yes]" if "Result:" in text else cut)
    assert tools().run("Well?", backend=backend, seed=1).answer == "yes"


def test_without_an_answer_it_says_so():
    result = tools(max_rounds=2).run("Well?", backend=ScriptedBackend(lambda text, sample: "Hm."), seed=1)
    assert not result.solved
    assert "after 2 rounds" in result.explanation


def test_it_stops_at_its_budget():
    result = tools().run("Well?", backend=ScriptedBackend(lambda text, sample: "Hm."), seed=1, budget="calls=2")
    assert (result.stopped, result.usage.calls) == ("budget", 2)


def test_bad_input():
    with pytest.raises(InputError):
        tools().run("  ", backend=acting("x"), seed=1)
    with pytest.raises(OptionError, match="num_documents=0"):
        tools(num_documents=0)
