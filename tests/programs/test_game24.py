"""The Game of 24 program: its parsers, exact rules, prompts and search, on scripted answers."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import compile_program
from llmprog.arithmetic import parse
from llmprog.backends import ScriptedBackend
from llmprog.backends.local.puzzles.moves import legal_moves, verdict
from llmprog.errors import InputError, OptionError
from llmprog.programs import game24
from llmprog.programs.game24 import (
    Attempt,
    Numbers,
    _first_state,
    is_solvable,
    legal,
    parse_puzzle,
    promising,
    propose,
    solve_at_once,
    thought_key,
)
from llmprog.search import Status


def state(*numbers: int, target: int = 24) -> Numbers:
    return _first_state(tuple(map(Fraction, sorted(numbers))), Fraction(target))


def oracle(prompt: str, sample: int) -> str:
    """Random legal steps and exact verdicts in the wire format: a stand-in that knows nothing of the search."""
    lines = prompt.strip().splitlines()
    numbers = tuple(
        sorted(map(int, lines[-2 if lines[-1].startswith("Possible") else -1].removeprefix("Input:").split()))
    )
    if lines[-1].startswith("Possible"):
        moves = list(legal_moves(numbers))
        random.Random(f"{prompt}{sample}").shuffle(moves)
        return "\n".join(map(str, moves[:4]))
    target = int(next(line for line in reversed(lines) if line.startswith("Target:")).split()[1])
    return f"some reasoning\n{verdict(numbers, target)}"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4 9 10 13", [4, 9, 10, 13]),
        ("13, 4 ,9,10", [4, 9, 10, 13]),
    ],
)
def test_a_puzzle_is_read_from_words_or_commas(text: str, numbers: list[Fraction]) -> None:
    assert parse_puzzle(text) == tuple(numbers)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("abc", "'abc' is not a whole number"),
        ("", "0 numbers"),
        ("7", "1 number in"),
        ("1 2 3 4 5 6 7 8 9", "9 numbers"),
        ("1/2 3", "'1/2' is not a whole number"),
        ("-3 8", "'-3' is not a whole number"),
        ("1e9999 2", "is not a whole number"),
        ("1000000 2", "from 0 to 999999"),
        ("٤ 2", "is not a whole number"),
    ],
)
def test_bad_input_says_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match="game24") as caught:
        parse_puzzle(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_readable_line_becomes_a_state() -> None:
    completion = "13 - 9 = 4 (left: 4 4 10)\nsomething else\n- 4 × 10 = 40\n2. 9 + 4 = 13 (left: 10 13 13)\n"
    states = list(propose(state(4, 9, 10, 13), completion))
    assert [s.left for s in states] == [(4, 4, 10), (9, 13, 40), (10, 13, 13)]
    assert all(legal(s).valid for s in states)
    assert states[0].steps == ("13 - 9 = 4 (left: 4 4 10)",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("13 - 9 = 5 (left: 4 5 10)", "13 - 9 is 4"),
        ("13 - 8 = 5 (left: 4 5 10)", "8 is not among the numbers left"),
        ("4 + 4 = 8 (left: 8 10 13)", "4 is not among the numbers left"),
        ("13 - 9 = 4 (left: 4 10)", "left are 4 4 10"),
        ("13 - 9 = 4 (left: 4 4 11)", "left are 4 4 10"),
    ],
)
def test_a_wrong_step_is_refused_with_its_reason(line: str, reason: str) -> None:
    (made,) = propose(state(4, 9, 10, 13), line)
    assert not legal(made).valid
    assert reason in legal(made).reason


def test_a_step_divides_by_zero() -> None:
    (made,) = propose(state(0, 9, 10), "9 / 0 = 9")
    assert legal(made).reason == "it divides by zero"


def test_a_refused_step_never_shares_a_thought_with_a_good_one() -> None:
    (wrong,) = propose(state(4, 9, 10, 13), "10 - 6 = 4 (left: 4 4 10)")
    (right,) = propose(state(4, 9, 10, 13), "13 - 9 = 4 (left: 4 4 10)")
    assert thought_key(wrong) != thought_key(right)


def test_a_last_number_other_than_the_target_is_refused() -> None:
    (made,) = propose(state(4, 5), "4 * 5 = 20")
    assert legal(made) == legal(made)
    assert "20 is left, not 24" in legal(made).reason


def test_verdicts_are_scored_by_their_published_values() -> None:
    assert promising(state(4, 6), ["4 6: 24 yes\nsure", "…\nlikely", "impossible"]) == pytest.approx(20 + 1 + 0.001)
    assert promising(state(4, 6), ["it is sure that\nI cannot tell", "", "SURE."]) == pytest.approx(20.002)


@given(st.text(max_size=300))
def test_parsers_never_raise_on_any_text(text: str) -> None:
    list(propose(state(4, 9, 10, 13), text))
    promising(state(4, 6), [text])
    solve_at_once(Attempt((Fraction(4), Fraction(6)), Fraction(24)), text)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=5), st.randoms())
def test_the_final_expression_uses_each_number_once_and_equals_the_last_one(
    numbers: list[int], rng: random.Random
) -> None:
    now = state(*numbers)
    while len(now.left) > 1:
        moves = legal_moves(tuple(int(n) for n in now.left))
        if not moves:
            return
        (now,) = propose(now, str(rng.choice(moves)))
        assert not now.fault
    expression = parse(now.expression or "")
    assert expression.evaluate() == now.left[0]
    assert sorted(expression.numbers()) == sorted(map(Fraction, numbers))


@pytest.mark.parametrize(
    ("text", "expression", "fault"),
    [
        ("Answer: (13 - 9) * (10 - 4) = 24", "(13 - 9) * (10 - 4)", ""),
        ("13 - 9 = 4 (left: 4 4 10)\nAnswer: (13 − 9) × (10 − 4)", "(13 - 9) * (10 - 4)", ""),
        ("(13 - 9) * 10 - 4 = 24", "(13 - 9) * 10 - 4", "it is 36, not 24"),
        ("4 * 6 = 24", "4 * 6", "it uses 4 6, not 4 9 10 13"),
        ("Answer: 9**9**9", None, "powers are not allowed"),
        ("no idea", None, "no expression"),
        ("Answer: 4 / (9 - 9)", None, "zero"),
    ],
)
def test_a_whole_solution_is_checked_exactly(text: str, expression: str | None, fault: str) -> None:
    made = solve_at_once(Attempt(tuple(map(Fraction, (4, 9, 10, 13))), Fraction(24)), text)
    assert made.expression == expression
    assert fault in made.fault
    assert bool(made.fault) == bool(fault)


def test_tree_of_thoughts_solves_and_builds_the_expression() -> None:
    result = game24().run("4 9 10 13", backend=ScriptedBackend(oracle), seed=1)
    assert result.solved
    assert result.stopped == "goal"
    expression = parse(result.answer)
    assert expression.evaluate() == 24
    assert sorted(expression.numbers()) == [4, 9, 10, 13]


def test_other_targets_and_counts_work() -> None:
    result = game24(target=100, num_samples=16).run("2 5 10 25 1", backend=ScriptedBackend(oracle), seed=3)
    assert result.solved
    assert parse(result.answer).evaluate() == 100


def test_a_state_is_judged_once_however_it_was_reached() -> None:
    backend = ScriptedBackend(oracle)
    result = game24().run("4 9 10 13", backend=backend, seed=1)
    judged = [r.prompt.text for r in backend.requests if "Evaluate" in r.prompt.text]
    assert len(judged) == len(set(judged))
    assert any(len(t.arrivals) > 1 for t in result.graph)


def test_an_unsolvable_puzzle_is_said_to_be_unsolvable() -> None:
    result = game24().run("1 1 1 1", backend=ScriptedBackend(oracle), seed=1)
    assert not result.solved
    assert result.answer is None
    assert "has no solution" in (result.explanation or "")


def test_a_missed_solution_is_not_called_unsolvable() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "impossible")
    result = game24().run("4 9 10 13", backend=backend, seed=1)
    assert not result.solved
    assert "but there is one" in (result.explanation or "")


def test_exhaustive_search_agrees_with_brute_force_over_expressions() -> None:
    def brute(numbers: tuple[Fraction, ...]) -> set[Fraction]:
        if len(numbers) == 1:
            return {numbers[0]}
        found: set[Fraction] = set()
        for size in range(1, len(numbers)):
            for chosen in itertools.combinations(range(len(numbers)), size):
                left = brute(tuple(numbers[i] for i in chosen))
                right = brute(tuple(numbers[i] for i in range(len(numbers)) if i not in chosen))
                for a, b in itertools.product(left, right):
                    found |= {a + b, a - b, a * b} | ({a / b} if b else set())
        return found

    rng = random.Random(24)
    for _ in range(25):
        numbers = tuple(Fraction(rng.randint(1, 13)) for _ in range(4))
        assert is_solvable(numbers, Fraction(24)) == (24 in brute(numbers))


def test_methods_are_the_same_thing_with_another_controller() -> None:
    right, wrong = "Answer: (13 - 9) * (10 - 4) = 24", "Answer: 4 + 9 + 10 + 13 = 36"
    mostly_wrong = ScriptedBackend(lambda prompt, sample: right if sample % 3 == 1 else wrong)
    votes = game24(method="cot_sc", num_samples=9).run("4 9 10 13", backend=mostly_wrong, seed=1)
    assert votes.votes is not None
    assert votes.votes.histogram[0] == ("4 + 9 + 10 + 13", 6)
    assert not votes.solved
    assert votes.answer == "4 + 9 + 10 + 13"
    best = game24(method="best_of_n", num_samples=9).run("4 9 10 13", backend=mostly_wrong, seed=1)
    assert best.solved
    assert best.answer == "(13 - 9) * (10 - 4)"
    for method in ("io", "cot"):
        backend = ScriptedBackend(lambda prompt, sample: right)
        assert game24(method=method).run("4 9 10 13", backend=backend, seed=1).solved
        assert len(backend.requests) == 1


def test_prompts_end_with_the_wire_format() -> None:
    backend = ScriptedBackend(oracle)
    game24(target=30).run("4 9 10 13", backend=backend, seed=1)
    first = backend.requests[0].prompt.text.splitlines()
    assert first[-3:] == ["Target: 30", "Input: 4 9 10 13", "Possible next steps:"]
    judged = next(r.prompt.text for r in backend.requests if "Evaluate" in r.prompt.text).splitlines()
    assert judged[-2] == "Target: 30"
    assert all(word.isdigit() for word in judged[-1].split())
    for method, last in (("cot", "Steps:"), ("io", "Answer:")):
        asked = ScriptedBackend(lambda prompt, sample: "")
        game24(method=method).run("4 9 10 13", backend=asked, seed=1)
        assert asked.requests[0].prompt.text.splitlines()[-2:] == ["Input: 4 9 10 13", last]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"beam_width": 0}, "beam_width=0; allowed is a whole number >= 1"),
        ({"method": "cot", "beam_width": 3}, "has no effect with method=cot"),
        ({"method": "io", "num_samples": 3}, "it belongs to method=tot or cot_sc or best_of_n"),
        ({"method": "best_of_n", "num_evaluations": 1}, "has no effect"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"method": "guess"}, "method='guess'; allowed are"),
    ],
)
def test_a_parameter_is_obeyed_or_refused(parameters: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError) as caught:
        game24(**parameters)
    assert complaint in str(caught.value)


def test_every_method_compiles_and_its_hash_tells_settings_apart() -> None:
    hashes = [compile_program(game24(method=m)).hash for m in ("io", "cot", "cot_sc", "best_of_n", "tot")]
    hashes += [compile_program(game24(target=25)).hash, compile_program(game24(beam_width=4)).hash]
    assert len(set(hashes)) == len(hashes)
    assert compile_program(game24()).hash == compile_program(game24()).hash


def test_illegal_steps_stay_in_the_graph_with_their_reason() -> None:
    def sloppy(prompt: str, sample: int) -> str:
        return oracle(prompt, sample) + "\n4 + 9 = 14" if "Possible" in prompt else oracle(prompt, sample)

    result = game24().run("4 9 10 13", backend=ScriptedBackend(sloppy), seed=1)
    refused = [t for t in result.graph if t.status == Status.INVALID and "4 + 9" in str(t.state)]
    assert refused
    assert any("is 13" in v.reason for t in refused for _, v in t.verdicts)
