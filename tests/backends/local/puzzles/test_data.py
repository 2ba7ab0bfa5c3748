"""Training examples: nothing held out is shown, everything shown is true."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from llmprog.backends.local.puzzles.data import (
    MIXTURE,
    Example,
    ExampleStream,
    judgement,
    random_question,
    sudoku_grids,
)
from llmprog.backends.local.puzzles.evaluate import is_solution
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.moves import legal_moves, reachable_numbers, solutions, verdict
from llmprog.backends.local.puzzles.split import split_of_numbers, split_of_text

TOKENIZER = PuzzleTokenizer()
LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+) \(left: ([\d ]+)\)")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(islice(ExampleStream(77), 20_000))


def parts(example: Example) -> tuple[list[str], str]:
    return [TOKENIZER.words[token] for token in example.prompt], TOKENIZER.decode(example.canvas)


def numbers_of(example: Example) -> tuple[int, ...]:
    words, _ = parts(example)
    return tuple(map(int, words[3 if example.task == "propose" else 2 :]))


def test_no_held_out_puzzle_or_state_is_asked_about_or_passed_through(examples: list[Example]) -> None:
    seen = 0
    for example in examples:
        _, text = parts(example)
        if example.task == "arithmetic":
            question = TOKENIZER.decode(example.prompt[1:])
            assert split_of_text(question) == "train"
        elif example.task == "sudoku":
            assert split_of_text(re.sub(r"\s", "", text)) == "train"
        else:
            seen += 1
            assert split_of_numbers(numbers_of(example)) == "train"
            if example.task == "cot":
                for match in LINE.finditer(text):
                    assert split_of_numbers(tuple(map(int, match[5].split()))) == "train"
            if example.task == "io":
                pass_through_open_states(numbers_of(example), text)
    assert seen > 15_000


def pass_through_open_states(numbers: tuple[int, ...], text: str) -> None:
    """Some chain of open states yields the expression's value (the expression itself names no state)."""
    target = int(text.rsplit("=", 1)[1])
    chains = solutions(numbers, target)
    assert any(all(split_of_numbers(move.left) == "train" for move in chain) for chain in chains)


def test_all_kinds_and_targets_occur(examples: list[Example]) -> None:
    assert {example.task for example in examples} == {"propose", "evaluate", "cot", "io", "arithmetic", "sudoku"}
    targets = [parts(e)[0][1] for e in examples if e.task in ("propose", "evaluate")]
    assert 0.6 < targets.count("24") / len(targets) < 0.85
    assert len(set(targets)) > 60


def test_proposals_are_distinct_legal_steps_and_as_many_as_asked(examples: list[Example]) -> None:
    checked = 0
    for example in (e for e in examples if e.task == "propose"):
        words, text = parts(example)
        known = {str(move) for move in legal_moves(numbers_of(example))}
        lines = text.split("\n")
        assert set(lines) <= known
        assert len(set(lines)) == len(lines)
        assert len(lines) == min(int(words[2]), len(known))
        checked += 1
    assert checked > 5_000


def test_proposals_are_uniform_over_the_legal_steps() -> None:
    """A chi-square of the first line over many draws of one puzzle's moves."""
    state = (4, 9, 10, 13)

    class OnePuzzle(ExampleStream):
        def state(self, count: int) -> tuple[int, ...]:
            return state

    stream = OnePuzzle(9)
    known = [str(move) for move in legal_moves(state)]
    first = [TOKENIZER.decode(stream.propose(4).canvas).split("\n")[0] for _ in range(3000)]
    expected = 3000 / len(known)
    chi_square = sum((first.count(line) - expected) ** 2 / expected for line in known)
    assert chi_square < 2.2 * len(known)


def test_verdicts_and_their_reasoning_are_true(examples: list[Example]) -> None:
    verdicts = []
    for example in (e for e in examples if e.task == "evaluate"):
        words, text = parts(example)
        state, target = numbers_of(example), int(words[1])
        verdicts.append(text.rsplit("\n", 1)[-1])
        true = verdict(state, target)
        assert verdicts[-1] == ("impossible" if len(state) == 3 and true == "likely" else true)
        assert len(text.split("\n")) == {2: 2, 3: 4}.get(len(state), 1)
        for line in text.split("\n")[:-1]:
            head, *needed, facts = line.split(":")
            a, b, *rest = map(int, head.replace("|", " ").split())
            assert sorted((a, b, *rest)) == list(state)
            outcomes = (a + b, abs(b - a), a * b, b // a if a and b % a == 0 else 999)
            for outcome, fact in zip(outcomes, facts.split(", "), strict=True):
                result, flag = fact.split()
                assert result == (str(outcome) if outcome <= 200 else "x")
                reached = set() if result == "x" else reachable_numbers(tuple(sorted((outcome, *rest))))
                near = reached & {target - 1, target + 1} and not rest
                assert flag == ("yes" if target in reached else "near" if near else "no")
            if rest:
                (third,) = rest
                would_do = {n for n in range(201) if target in reachable_numbers(tuple(sorted((third, n))))}
                assert {int(word) for word in needed[0].split() if word != "x"} == would_do
    assert all(verdicts.count(word) > 300 for word in ("sure", "likely", "impossible"))


def test_chains_and_expressions_solve_their_puzzles(examples: list[Example]) -> None:
    checked = 0
    for example in (e for e in examples if e.task in ("cot", "io")):
        words, text = parts(example)
        state, target = numbers_of(example), int(words[1])
        assert is_solution(text.rsplit("Answer:", 1)[-1], state, target)
        if example.task == "cot":
            for line in text.split("\n")[:-1]:
                move = next(move for move in legal_moves(state) if str(move) == line)
                state = move.left
            assert state == (target,)
        checked += 1
    assert checked > 2_000


def test_arithmetic_steps_and_answers_are_true(examples: list[Example]) -> None:
    asked = [e for e in examples if e.task == "arithmetic"]
    for example in asked:
        question = TOKENIZER.decode(example.prompt[1:])
        *steps, answer = TOKENIZER.decode(example.canvas).split("\n")
        value = eval(question, {})  # noqa: S307 - digits, brackets and operators of our own tokenizer
        assert answer == f"Answer: {value:g}"
        assert steps[-1].endswith(f"= {value:g}")
        assert len(steps) == sum(sign in "+-*/" for sign in question)
        for step in steps:
            left, right = step.split("=")
            assert eval(left, {}) == int(right)  # noqa: S307
    assert len(asked) > 1_000


def test_sudoku_solutions_are_the_only_ones(examples: list[Example]) -> None:
    assert len(sudoku_grids()) == len(set(sudoku_grids())) == 288
    asked = [e for e in examples if e.task == "sudoku"][:200]
    for example in asked:
        cells = parts(example)[0][1:]
        fitting = [g for g in sudoku_grids() if all(c in (".", d) for c, d in zip(cells, g, strict=True))]
        assert fitting == [re.sub(r"\s", "", TOKENIZER.decode(example.canvas))]


def test_a_stream_is_fixed_by_its_seed_and_continues_from_its_state() -> None:
    def run(stream: ExampleStream, count: int) -> list[list[Example]]:
        return [stream.next_batch(600) for _ in range(count)]

    assert run(ExampleStream(1), 5) == run(ExampleStream(1), 5) != run(ExampleStream(2), 5)
    first, second = ExampleStream(3), ExampleStream(3)
    run(first, 4)
    later = ExampleStream(99)
    later.load_state_dict(first.state_dict())
    assert run(later, 4) == run(second, 8)[4:]


def test_batches_have_one_shape_and_about_the_size_asked_for() -> None:
    stream = ExampleStream(4)
    for batch in (stream.next_batch(1000) for _ in range(20)):
        assert len({example.shape for example in batch}) == 1
        size = sum(1 + len(e.prompt) + len(e.canvas) for e in batch)
        assert 1000 <= size < 1110


def test_questions_are_worth_what_they_say() -> None:
    import random

    rng = random.Random(8)
    questions = [q for q in (random_question(rng, 4) for _ in range(3000)) if q]
    assert len(questions) > 300
    for question in questions:
        assert eval(question.text, {}) == question.value  # noqa: S307


def test_judgement_of_the_example() -> None:
    assert judgement((5, 6, 6), 24).split("\n")[-1] == "sure"
    assert judgement((4, 6), 24) == "4 6: 10 no, 2 no, 24 yes, x no\nsure"
    assert judgement((24,), 24) == "sure"
    assert judgement((23,), 24) == "likely"


def test_the_mixture_names_every_kind() -> None:
    stream = ExampleStream(1)
    for kind in MIXTURE:
        assert stream.draw(kind).task == kind.rstrip("12345")
