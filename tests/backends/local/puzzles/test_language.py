"""The tokenizer: completion texts survive the way to tokens and back; prompts are recognised or refused clearly."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.local.puzzles.data import MIXTURE, ExampleStream
from llmprog.backends.local.puzzles.language import MAX_LINES, PuzzleTokenizer, line_length
from llmprog.errors import InputError

TOKENIZER = PuzzleTokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "13 - 9 = 4 (left: 4 4 10)\n10 - 4 = 6 (left: 4 6)",
        "4 6 = 24 (left: 24)",
        "5 6 | 6: 30 18 144 4: 11 no, 1 no, 30 yes, x no\n4 6: 10 no, 2 no, 24 yes, x no\nsure",
        "Answer: (13 - 9) * (10 - 4) = 24",
        "((1 + 2) * 3) / 4 = 200",
        "1 2 3 4\n3 4 1 2\n",
        "17 + 25 = 42\nAnswer: 86",
        "likely",
        "",
    ],
)
def test_text_survives_the_way_to_tokens_and_back(text: str) -> None:
    tokens = TOKENIZER.encode_text(text)
    assert TOKENIZER.decode(tokens) == text
    assert not set(tokens) & set(TOKENIZER.never_sampled)


@pytest.mark.parametrize("kind", sorted(MIXTURE))
def test_every_kind_of_completion_round_trips_and_fills_its_canvas(kind: str) -> None:
    stream = ExampleStream(5)
    for _ in range(30):
        example = stream.draw(kind)
        text = TOKENIZER.decode(example.canvas)
        tokens = TOKENIZER.encode_text(text)
        assert tuple(tokens) == example.canvas[: len(tokens)]
        assert set(example.canvas[len(tokens) :]) == {TOKENIZER.eos_id}
        assert len(example.canvas) % example.block_length == 0


def test_decoding_stops_at_the_end_and_skips_padding() -> None:
    sure, eos, pad = TOKENIZER.id_of("sure"), TOKENIZER.eos_id, TOKENIZER.pad_id
    assert TOKENIZER.decode([pad, sure, eos, sure]) == "sure"


def test_special_ids_are_distinct_and_only_the_end_is_sampled() -> None:
    t = TOKENIZER
    special = {t.pad_id, t.eos_id, t.mask_id, t.ar_id, t.diffusion_id, t.hybrid_id}
    assert len(special) == 6
    assert len(set(t.words)) == t.vocab_size
    assert set(t.never_sampled) & special == special - {t.eos_id}


def words(text: str, **keywords: int) -> list[str]:
    return [TOKENIZER.words[token] for token in TOKENIZER.encode_prompt(text, **keywords).tokens]


def test_proposals() -> None:
    prompt = TOKENIZER.encode_prompt("Input: 13 4 10 9\nPossible next steps:\n")
    assert prompt.task == "propose"
    assert words("Input: 13 4 10 9\nPossible next steps:") == ["<propose>", "24", "4", "4", "9", "10", "13"]
    assert (prompt.canvas_length, prompt.block_length) == (44, 11)
    assert words("Input: 1 2\nPossible next 7 steps:")[2] == "7"
    assert words("Input: 1 2\nPossible next steps:", lines=8)[2] == "8"
    assert words("Input: 1 2\nPossible next 99 steps:")[2] == str(MAX_LINES)


@pytest.mark.parametrize(
    ("preamble", "target"),
    [
        ("", "24"),
        ("Use the numbers to obtain 36.", "36"),
        ("Target: 30", "30"),
        ("target = 7", "7"),
        ("Try to reach 24.\nInput: 1 2 3 4\nTarget: 99", "99"),
        ("Target: 99\nNow make 10 instead.", "10"),
        ("Evaluate if these can reach 17", "17"),
        ("There are 24 ways to cook.", "24"),
    ],
)
def test_target_nearest_to_the_end_wins(preamble: str, target: str) -> None:
    for tail in ("Input: 1 2 3\nPossible next steps:", "Input: 1 2 3\nSteps:", "Input: 1 2 3\nAnswer:"):
        assert words(f"{preamble}\n{tail}")[1] == target
    assert words(f"Judge this.\n{preamble}\n1 2 3")[1] == target


def test_evaluations() -> None:
    text = "Evaluate if given numbers can reach 24 (sure/likely/impossible)\n10 14\n10 + 14 = 24\nsure\n"
    assert words(text + "4 4 10") == ["<evaluate>", "24", "4", "4", "10"]
    assert words(text + "Input: 10, 4 4\n") == ["<evaluate>", "24", "4", "4", "10"]
    lengths = {1: 2, 2: 14, 3: 60, 4: 2}
    for count, length in lengths.items():
        prompt = TOKENIZER.encode_prompt(text + " ".join(["3"] * count))
        assert (prompt.task, prompt.canvas_length) == ("evaluate", length)


def test_other_tasks() -> None:
    assert words("Input: 4 9 10 13\nSteps:")[:2] == ["<cot>", "24"]
    assert words("Input: 4 9 10 13\nAnswer:")[:2] == ["<io>", "24"]
    question = words("Question: What is (17 + 25) * 3 - 40?\nReasoning:")
    assert question == ["<arithmetic>", "(", "17", "+", "25", ")", "*", "3", "-", "40"]
    grid = words("1 . . 4\n. . 1 .\n2 . . .\n. . . 3\nSolution:")
    assert grid == ["<sudoku>", *"1..4..1.2......3"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "4 4 10",
        "Input: a b\nSteps:",
        "Steps:",
        "Input: 5\nSteps:",
        "Input: 1 2 3 4 5 6 7\nSteps:",
        "Input: 1 2 201\nPossible next steps:",
        "Target: 999\nInput: 1 2 3\nSteps:",
        "Question: What is 1?\nReasoning:",
        "Question: What is 1 + two?\nReasoning:",
        "Question: What is 1 + 300?\nReasoning:",
        "Question: What is 1+1+1+1+1+1+1?\nReasoning:",
        "1 . .\n2 . . .\n. . . .\n. . . .\nSolution:",
        "Evaluate this\n999",
    ],
)
def test_other_prompts_are_refused_with_help(text: str) -> None:
    with pytest.raises(InputError, match="embedded model"):
        TOKENIZER.encode_prompt(text)


@given(st.text(max_size=80))
def test_any_text_is_encoded_or_refused(text: str) -> None:
    for encode in (TOKENIZER.encode_text, TOKENIZER.encode_prompt):
        with contextlib.suppress(InputError):
            encode(text)


@given(st.lists(st.sampled_from(TOKENIZER.words[12:]), max_size=30))
def test_any_sequence_of_words_survives(sequence: list[str]) -> None:
    tokens = [TOKENIZER.id_of(word) for word in sequence]
    assert TOKENIZER.encode_text(TOKENIZER.decode(tokens)) == tokens


def test_a_line_is_as_long_as_its_block() -> None:
    assert line_length(4) == len(TOKENIZER.encode_text("13 - 9 = 4 (left: 4 4 10)\n"))
    assert line_length(2) == len(TOKENIZER.encode_text("4 * 6 = 24 (left: 24)\n"))
