"""The three_sat program: formulas, exact answers, parsers and search."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.three_sat import Formula, parse_formula, random_formula, satisfy, three_sat
from llmprog.programs.three_sat.formula import dead_end, false_clause, is_satisfied, propagate
from llmprog.programs.three_sat.program import Assignment, legal, read_literals, set_some

# 1 must be true, then 2 and 3 both true and not both: unsatisfiable, and not by propagation of what is given alone.
UNSATISFIABLE = "1 2 / 1 -2 / -1 3 / -1 -3"
FORMULA = parse_formula("1 2 3 / -1 -2 3 / -1 2 -3 / 1 -2 -3")


def all_assignments(formula: Formula) -> list[tuple[int, ...]]:
    variables = range(1, formula.num_variables + 1)
    signs = itertools.product((1, -1), repeat=formula.num_variables)
    return [tuple(v * sign for v, sign in zip(variables, chosen, strict=True)) for chosen in signs]


def guesser(prompt: str, sample: int) -> str:
    """Sets two variables at random: a stand-in that knows nothing of the clauses."""
    not_set = next(line for line in prompt.splitlines() if line.startswith("Variables")).partition(":")[2].split()
    rng = random.Random(f"{prompt}{sample}")
    chosen = rng.sample(not_set, min(2, len(not_set)))
    return "I think:\n" + " ".join(f"{'-' * rng.randint(0, 1)}{variable}" for variable in chosen)


# ---------------------------------------------------------------------------------------------- formulas


def test_a_formula_is_read_from_dimacs_from_lines_and_between_slashes() -> None:
    dimacs = "c a comment\np cnf 4 3\n1 -2 0\n3\n4 -1 0 2 0\n%\n0\n"
    assert parse_formula(dimacs) == Formula(4, ((1, -2), (3, 4, -1), (2,)))
    assert parse_formula("1 -2 0\n3, 4, -1\n2") == Formula(4, ((1, -2), (3, 4, -1), (2,)))
    assert parse_formula("1 -2 / 3 4 -1 / 2") == Formula(4, ((1, -2), (3, 4, -1), (2,)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "clause 1: it has 0 literals"),
        ("1 2 3 4", "clause 1: it has 4 literals"),
        ("1 2 / x y", "clause 2: 'x' is no literal"),
        ("1 2 / / 3", "clause 2: it has 0 literals"),
        ("p cnf 2 1\n1 3 0", "uses variable 3, but the formula declares 2"),
        ("101 2", "101 variables and 1 clauses; allowed are 100 and 1000"),
    ],
)
def test_bad_input_says_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match="three_sat") as caught:
        parse_formula(text)
    assert complaint in str(caught.value)


@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(3, 40))
def test_the_exact_answer_is_that_of_trying_everything(seed: int, num_variables: int, num_clauses: int) -> None:
    formula = random_formula(num_variables, num_clauses, random.Random(seed))
    solutions = [literals for literals in all_assignments(formula) if is_satisfied(formula, literals)]
    answer = satisfy(formula)
    assert answer.is_certain
    assert (answer.literals is not None) == bool(solutions)
    assert answer.literals is None or is_satisfied(formula, answer.literals)
    for literal in (1, -2):
        can_be_kept = any(literal in literals for literals in solutions)
        assert (dead_end(formula, (literal,)) == "") == can_be_kept


def test_a_search_that_comes_to_its_limit_says_so() -> None:
    formula = random_formula(40, 172, random.Random(5))
    answer = satisfy(formula, max_nodes=1)
    assert (answer.literals, answer.is_certain) == (None, False)
    assert dead_end(formula, (), max_nodes=1) == ""


def test_what_unit_propagation_makes_false_is_named() -> None:
    formula = parse_formula("-1 2 / -2 3 / -1 -3")
    literals, conflict = propagate(formula, (1,))
    assert literals == {1, 2, 3}
    assert conflict == 3
    assert dead_end(formula, (1,)) == "what follows from it makes clause 3 (-1 -3) false"
    assert dead_end(parse_formula("1 2 / 1 -2 / -1 2 / -1 -2"), ()) == (
        "no way to set the other variables is left: every one was tried"
    )


# ----------------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("text", "literals"),
    [
        ("1 -2 3", [1, -2, 3]),
        ("I set them one by one.\nLiterals: 1, -2", [1, -2]),
        ("v 1 -2 0", [1, -2]),
        ("x1 = true and x2 = False, so x3: T", [1, -2, 3]),
        ("not 3, x4", [-3, 4]),
        ("[¬1, ~2, 5]", [-1, -2, 5]),
        ("**-4**", [-4]),
        ("It cannot be done.", []),
        ("", []),
    ],
)
def test_literals_are_read_however_they_are_written(text: str, literals: list[int]) -> None:
    assert read_literals(text) == literals


@given(st.text(max_size=300))
def test_any_text_gives_a_state(text: str) -> None:
    state = set_some(Assignment(FORMULA), text, 2)
    assert state.fault or is_satisfied(FORMULA, state.literals) or len(state.literals) <= 2


def test_reading_takes_linear_time() -> None:
    assert read_literals("1" * 20_000 + "!") == []
    assert read_literals("x1 = " * 4_000) == []
    assert read_literals("not " * 5_000) == []


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("7", "there is no variable 7; they are 1 to 3"),
        ("-1 2", "variable 1 is already true"),
        ("2 -2", "variable 2 is set to true and to false"),
        ("1", "no variable was set"),
        ("no idea", "the reply states no literal"),
        ("-2 3", "clause 3 (-1 2 -3) is false"),
    ],
)
def test_a_step_that_cannot_be_taken_is_refused_with_its_reason(reply: str, fault: str) -> None:
    made = set_some(Assignment(FORMULA, (1,)), reply, 3)
    assert made.fault == fault
    assert made.literals == (1,)
    assert not legal(made).valid
    assert legal(made).reason == fault


def test_a_step_sets_at_most_so_many_variables_unless_it_solves_the_formula() -> None:
    formula = parse_formula("1 2 / 3 4 / 5 6")
    assert set_some(Assignment(formula), "1 -2 -3 4", 2).literals == (1, -2)
    assert set_some(Assignment(formula), "1 3 5", 2).literals == (1, 3, 5)
    assert false_clause(formula, (-1, -2)) == 1


# ------------------------------------------------------------------------------------------------ search


def test_a_guesser_is_led_to_a_solution_by_exact_rules() -> None:
    rng = random.Random(3)
    solved = 0
    for seed in range(10):
        formula = random_formula(8, 28, rng)
        is_satisfiable = satisfy(formula).literals is not None
        result = three_sat().run(str(formula), backend=ScriptedBackend(guesser), seed=seed)
        assert not result.solved or is_satisfied(formula, map(int, result.answer.split()))
        assert result.solved <= is_satisfiable
        solved += result.solved
        if not is_satisfiable:
            assert "unsatisfiable" in (result.explanation or "")
    assert solved >= 4


@pytest.mark.parametrize("dead_ends", ["none", "propagation", "search"])
def test_dead_ends_are_found_as_early_as_asked_for(dead_ends: str) -> None:
    def script(prompt: str, sample: int) -> str:
        return "1"

    formula = "-1 2 / -2 3 4 / -2 3 -4 / -1 -3 4 / -1 -3 -4"
    result = three_sat(dead_ends=dead_ends, max_rounds=3).run(formula, backend=ScriptedBackend(script), seed=1)
    reasons = [verdict.reason for thought in result.graph for _, verdict in thought.verdicts if not verdict.valid]
    # 1 makes 2 true; only a search sees that 3 can then be neither true nor false.
    assert any("every one was tried" in reason for reason in reasons) == (dead_ends == "search")


def test_an_unsatisfiable_formula_is_named_as_such() -> None:
    result = three_sat(method="best_of_n", num_samples=3).run(
        UNSATISFIABLE, backend=ScriptedBackend(lambda prompt, sample: "1 2 3"), seed=1
    )
    assert not result.solved
    assert result.explanation == (
        "the formula is unsatisfiable: every assignment makes a clause false, as an exact search has shown"
    )


def test_a_whole_assignment_is_checked_exactly() -> None:
    backend = ScriptedBackend(lambda prompt, sample: ("-1 -2 -3", "1 2 3")[sample % 2])
    assert not three_sat(method="one_shot").run(str(FORMULA), backend=backend, seed=1).solved
    result = three_sat(method="best_of_n", num_samples=2).run(str(FORMULA), backend=backend, seed=1)
    assert result.solved
    assert result.answer == "1 2 3"


def test_parameters_that_a_method_would_ignore_are_refused() -> None:
    with pytest.raises(OptionError, match="variables_per_step=2 has no effect with method=one_shot"):
        three_sat(method="one_shot", variables_per_step=2)
    with pytest.raises(OptionError, match="dead_ends='all'; allowed are none, propagation, search"):
        three_sat(dead_ends="all")
