"""Worked examples from files: read alike from every format, faults told all at once, shown before the question."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmprog.backends import ScriptedBackend
from llmprog.compile import compile_program
from llmprog.errors import InputError, OptionError
from llmprog.programs.chain_of_thought import chain_of_thought
from llmprog.programs.examples import Example, read_examples
from llmprog.programs.io import io

TWO = (
    Example(question="How many legs has a dog?", answer="4", reasoning="A dog is a mammal.\nIt walks on four."),
    Example(question="And a hen?", answer="2"),
)
FILES = {
    "jsonl": '{"question": "How many legs has a dog?", "reasoning": "A dog is a mammal.\\nIt walks on four.", '
    '"answer": 4}\n\n{"input": "And a hen?", "gold": "2", "note": "birds"}\n',
    "csv": 'question,reasoning,answer\nHow many legs has a dog?,"A dog is a mammal.\nIt walks on four.",4\n'
    "And a hen?,,2\n",
    "yaml": "- question: How many legs has a dog?\n  reasoning: |\n    A dog is a mammal.\n    It walks on four.\n"
    '  answer: 4\n- {question: "And a hen?", answer: 2}\n',
}


@pytest.fixture
def examples(tmp_path: Path) -> str:
    path = tmp_path / "legs.jsonl"
    path.write_text(FILES["jsonl"])
    return str(path)


@pytest.mark.parametrize("suffix", FILES)
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"legs.{suffix}"
    path.write_text(FILES[suffix])
    assert read_examples(path) == TWO
    assert read_examples(path, 1) == TWO[:1]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.jsonl",
            '{"question": "a"}\n{"answer": 1}\nnone',
            r"line 1: no answer; .*line 2: no question.*line 3: no JSON",
        ),
        ("a.jsonl", '{"question": "a", "answer": true}', "answer is True; allowed is a text or a number"),
        ("a.jsonl", "[1]", "is no object with a question and an answer"),
        ("a.jsonl", "", "are 0, wanted are at least 1"),
        ("a.csv", "question,answer\na\n", "line 2: no answer"),
        ("a.yaml", "a: [", "YAML:1:5: no YAML: while parsing a flow node"),
        ("a.yaml", "answer: 007\nanswer: 1", r"YAML:1:9: 007 begins with 0; .*; YAML:2:1: 'answer' is given twice"),
        ("a.txt", "", "allowed are files that end with .jsonl, .csv, .yaml, .yml"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_examples(tmp_path / name)


def test_what_cannot_be_is_refused(tmp_path: Path, examples: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        read_examples(tmp_path / "none.csv")
    with pytest.raises(InputError, match="are 2, wanted are 3"):
        read_examples(examples, 3)
    with pytest.raises(OptionError, match="num_examples=0"):
        read_examples(examples, 0)
    with pytest.raises(OptionError, match="no effect without examples"):
        io(num_examples=2)
    (tmp_path / "latin.csv").write_bytes(b"question,answer\n\xe9,1\n")
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 16\)"):
        read_examples(tmp_path / "latin.csv")


def turns(backend: ScriptedBackend) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in backend.requests[0].prompt.messages]


def test_a_chain_is_shown_the_reasoning_of_the_examples(examples: str) -> None:
    backend = ScriptedBackend(lambda prompt, sample: "Answer: 12")
    chain_of_thought(examples=examples, system="Be brief.").run("And three dogs?", backend=backend, seed=1)
    asked = turns(backend)
    assert [role for role, _ in asked] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert asked[1][1].startswith("Answer the question below. Reason step by step")
    assert asked[2][1] == "A dog is a mammal.\nIt walks on four.\nAnswer: 4"
    assert [content for _, content in asked[3:]] == ["Question: And a hen?", "Answer: 2", "Question: And three dogs?"]


def test_an_answer_at_once_is_shown_answers_alone(examples: str) -> None:
    backend = ScriptedBackend(lambda prompt, sample: "Answer: 12")
    io(examples=examples, num_examples=1).run("And three dogs?", backend=backend, seed=1)
    assert [content for _, content in turns(backend)[1:]] == ["Answer: 4", "Question: And three dogs?"]


def test_examples_have_the_form_that_is_asked_for(examples: str) -> None:
    backend = ScriptedBackend(lambda prompt, sample: 'Well: {"legs": {"n": 12}}')
    program = chain_of_thought(answer="json", path="legs.n", examples=examples)
    assert program.run("And three dogs?", backend=backend, seed=1).answer == "12"
    asked = turns(backend)
    assert asked[0][1].startswith("Answer the question below. Reason step by step, then end your reply with JSON")
    assert '{"legs": {"n": "…"}}' in asked[0][1]
    assert asked[1][1].endswith('{"legs": {"n": "4"}}')


def test_the_embedded_model_takes_examples(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("question,reasoning,answer\nWhat is 2 * 3 + 1?,2 * 3 = 6\n6 + 1 = 7,7\n".replace("= 6\n", "= 6 "))
    result = chain_of_thought(examples=str(path), answer="number").run(
        "(17 + 25) * 3 - 40", backend="local:puzzles", seed=1
    )
    assert result.answer == "86"


def test_other_examples_make_another_program(tmp_path: Path, examples: str) -> None:
    def hashed(**settings: object) -> str:
        return compile_program(io(**settings)).hash

    assert hashed(examples=examples) == hashed(examples=examples) != hashed()
    assert hashed(examples=examples, num_examples=1) != hashed(examples=examples)
