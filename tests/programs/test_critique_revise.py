"""Revising by principles: each has its critique, which names it, and changes only what breaks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError
from llmprog.exports.formats import export
from llmprog.programs.critique_revise import CONSTITUTION, Principle, critique_revise, read_principles
from llmprog.runs.store import MemoryStore

BROKEN = ("harm", "use")


def model(prompt: str, sample: int) -> str:
    if "Quote where" in prompt:
        name = prompt.partition("Principle (")[2].partition(")")[0]
        return f"On {name}.\nVerdict: {'revise' if name in BROKEN else 'good'}"
    if "Write the reply anew" in prompt:
        return prompt.partition("Reply:\n")[2].partition("\n")[0] + "+"
    return "reply"


def test_a_reply_is_rewritten_where_it_breaks_a_principle_and_nowhere_else() -> None:
    backend = ScriptedBackend(model)
    result = critique_revise().run("How do I open a lock?", backend=backend, seed=1)
    assert (result.answer, result.solved) == ("reply++", True)
    asked = [request.prompt.text for request in backend.requests]
    assert len(asked) == 1 + len(CONSTITUTION) + len(BROKEN)
    critiques = [text for text in asked if "Quote where" in text]
    assert [principle.text in text for principle, text in zip(CONSTITUTION, critiques, strict=True)] == [True] * 4
    rewritten = [text for text in asked if "Write the reply anew" in text]
    assert ["On harm." in rewritten[0], "On use." in rewritten[1]] == [True, True]
    assert "Reply:\nreply+\n" in rewritten[1]


def test_every_critique_names_its_principle() -> None:
    result = critique_revise().run("Help.", backend=ScriptedBackend(model), seed=1)
    said = [str(state) for state in result.graph.states if state.comment]
    assert [text.partition("]")[0][1:] for text in said] == ["truth", "harm", "respect", "use"]


def test_a_budget_leaves_what_was_written_until_then() -> None:
    result = critique_revise().run("Help.", backend=ScriptedBackend(model), seed=1, budget="calls=4")
    assert (result.answer, result.solved, result.stopped) == ("reply+", False, "budget")


@pytest.mark.parametrize(
    ("name", "text", "principles"),
    [
        ("p.txt", "# ours\nbrief: Ten words.\n\nIt rhymes: always.\n", {"brief": "Ten words.", "It rhymes": "always."}),
        ("p.txt", "It says at no time this: no.\n", {"1": "It says at no time this: no."}),
        ("p.yaml", "brief: Ten words.\nrhyme: It rhymes.\n", {"brief": "Ten words.", "rhyme": "It rhymes."}),
        ("p.yml", "- It rhymes.\n- brief: Ten words.\n", {"1": "It rhymes.", "brief": "Ten words."}),
    ],
)
def test_a_constitution_is_a_file(tmp_path: Path, name: str, text: str, principles: dict[str, str]) -> None:
    (tmp_path / name).write_text(text)
    assert read_principles(tmp_path / name) == tuple(Principle(*pair) for pair in principles.items())
    backend = ScriptedBackend(model)
    critique_revise(principles=str(tmp_path / name)).run("Help.", backend=backend, seed=1)
    assert next(iter(principles.values())) in backend.requests[1].prompt.text


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("p.txt", "# none\n", "are called nothing"),
        ("p.txt", "a: b\na: c\n", "are called a, a; give each its own name"),
        ("p.yaml", "a: [b]\n", "allowed are texts, and texts by name"),
        ("p.yaml", "a: [", "while parsing a flow"),
        ("p.yaml", "a: x\na: !y z\n", "p.yaml:2:1: 'a' is given twice; first in line 1; p.yaml:2:4: the tag !y"),
        ("p.yaml", "", "p.yaml:1:1: the file is empty"),
        ("p.csv", "a,b", r"allowed are files that end with \.txt, \.yaml, \.yml"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_a_bad_constitution_is_refused(tmp_path: Path, name: str, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        critique_revise(principles=str(tmp_path / name))


def test_the_way_through_all_principles_becomes_training_data() -> None:
    store = MemoryStore()
    run(critique_revise(), "Help.", backend=ScriptedBackend(model), seed=1, store=store)
    found = [json.loads(piece) for piece in export(store.open(store.list()[0].id), "sft")]
    assert [line["node"] for line in found] == ["draft", *["critique"] * 2, "revise", *["critique"] * 2, "revise"]
