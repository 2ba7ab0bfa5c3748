"""The sorting program, and what all tasks of Graph of Thoughts share: methods, merges, improvements, budgets."""

from __future__ import annotations

import io
import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmprog import Verdict, compile_program, open_store
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.divide_and_merge import error_counter, even_pieces, num_parts_for
from llmprog.programs.number_lists import parse_numbers, read_numbers
from llmprog.programs.sorting import TASK, Numbers, num_errors, random_numbers, sorting
from llmprog.terminal import program_lines

NUMBERS = "3 1 4 1 5 9 2 6"


def lists_of(prompt: str) -> list[list[int]]:
    """The lists that the task of a prompt, not its example, holds."""
    task = prompt.rpartition("\n\n")[2]
    return [[int(word) for word in found.split(",") if word.strip()] for found in re.findall(r"\[([^\]]*)\]", task)]


def sorter(error_rate: float = 0.0):
    """Sorts and merges, and puts another digit for each with a known probability."""

    def reply(prompt: str, sample: int) -> str:
        rng = random.Random(f"{prompt}{sample}")
        lists = lists_of(prompt)
        numbers = sorted(lists[0] + lists[1]) if "Merge the two" in prompt else sorted(lists[0])
        return str([rng.randrange(10) if rng.random() < error_rate else number for number in numbers])

    return ScriptedBackend(reply)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "answer", "inversions", "differences"),
    [
        ([2, 1, 3], [1, 2, 3], 0, 0),
        ([2, 1, 3], [2, 1, 3], 1, 0),
        # 5 > 3 and 4 > 1 are in the wrong order; a 1 is missing, a 4 is one too many.
        ([1, 1, 3, 4, 5], [5, 3, 4, 4, 1], 2, 2),
        ([0, 0, 7], [0, 7], 0, 1),
        ([0, 0, 7], [], 0, 3),
        ([4], [4, 12], 0, 1),
        ([4], [5], 0, 2),
    ],
)
def test_errors_are_neighbours_in_the_wrong_order_and_numbers_too_many_or_too_few(
    given, answer, inversions, differences
):
    assert num_errors(given, answer) == inversions + differences


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_only_the_sorted_list_has_no_errors_and_no_list_has_more_than_it_can(numbers, answer):
    found = num_errors(numbers, answer)
    assert (found == 0) == (answer == sorted(numbers))
    assert found <= len(numbers) + len(answer) + max(0, len(answer) - 1)
    # The published sum over the digits 0 to 9, written out.
    x = sum(a > b for a, b in itertools.pairwise(answer))
    assert found == x + sum(abs(answer.count(digit) - numbers.count(digit)) for digit in range(10))


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("[0, 1, 2]", (0, 1, 2)),
        ("First [3, 1], so\nSorted: [1, 3]\nThat is all 2 of them.", (1, 3)),
        ("0 1 1 2", (0, 1, 1, 2)),
        ("It has 3 numbers:\n0, 1, 1\n\nDone.", (0, 1, 1)),
        ("[0, 1, 2, 3", (0, 1, 2, 3)),
        ("[]", ()),
        ("[a list]\n12", (12,)),
        ("none", None),
        ("", None),
        ("3.5 and x7", None),
    ],
)
def test_a_list_is_read_however_it_is_written(reply, numbers):
    assert read_numbers(reply) == numbers


@given(st.text(alphabet="[], 0123456789ab\n", max_size=200))
def test_any_reply_gives_a_state(text):
    found = read_numbers(text)
    assert found is None or all(0 <= number <= 999_999 for number in found)


def test_reading_takes_linear_time():
    assert read_numbers("[" * 50_000) == ()
    assert read_numbers("[1, " * 20_000) == (1,)
    assert read_numbers("1" * 100_000) is None


def test_input_is_read_exactly():
    assert parse_numbers("[3, 1, 2]", "sorting") == parse_numbers("3 1 2", "sorting") == (3, 1, 2)
    for text, complaint in [
        ("3 one", "sorting: 'one' is not a whole number"),
        ("", "sorting: 0 numbers"),
        ("-1", "'-1'"),
    ]:
        with pytest.raises(InputError, match=complaint):
            parse_numbers(text, "sorting")


@given(st.lists(st.integers(), max_size=60), st.integers(1, 20))
def test_parts_are_as_equal_as_they_can_be_and_none_is_too_large(items, size):
    pieces = list(even_pieces(items, num_parts_for(len(items), size)))
    assert [item for piece in pieces for item in piece] == items
    assert max(map(len, pieces)) <= size
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


# ------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(("method", "calls"), [("io", 1), ("cot", 1), ("tot", 10), ("got", 5)])
def test_a_list_is_sorted_by_every_method(method, calls):
    result = sorting(method=method).run(NUMBERS, backend=sorter(), seed=1)
    assert (result.solved, result.answer) == (True, "1 1 2 3 4 5 6 9")
    assert result.usage.calls == calls


@pytest.mark.parametrize(("length", "parts", "merges"), [(16, 1, 0), (17, 2, 1), (32, 2, 1), (64, 4, 3), (80, 5, 4)])
def test_the_number_of_parts_and_merges_follows_from_the_length(length, parts, merges):
    numbers = random_numbers(length, random.Random(length))
    backend = sorter()
    result = sorting(num_samples=1).run(" ".join(map(str, numbers)), backend=backend, seed=1)
    assert result.answer == " ".join(map(str, sorted(numbers)))
    asked = [request.prompt.text.partition(" ")[0] for request in backend.requests]
    assert (asked.count("Sort"), asked.count("Merge"), len(asked)) == (parts, merges, parts + merges)


def test_a_merge_has_both_parts_as_parents_and_the_numbers_of_both():
    result = sorting(part_size=4, num_samples=1).run(NUMBERS, backend=sorter(), seed=1)
    assert [parent.state.answer for parent in result.thought.parents] == [(1, 1, 3, 4), (2, 5, 6, 9)]
    assert result.thought.state.given == (3, 1, 4, 1, 5, 9, 2, 6)


def test_equal_parts_stay_two_parts():
    result = sorting(part_size=2, num_samples=1).run("2 1 2 1", backend=sorter(), seed=1)
    assert (result.solved, result.answer) == (True, "1 1 2 2")


def test_a_list_with_errors_is_improved_three_times_at_most():
    backend = ScriptedBackend(lambda prompt, sample: "[1, 2, 2]")
    result = sorting(num_samples=2).run("3 1 2", backend=backend, seed=1)
    asked = [request.prompt.text.partition(" ")[0] for request in backend.requests]
    assert asked == ["Sort", "The", "The", "The"]
    assert (result.solved, result.answer, result.thought.score) == (False, "1 2 2", -2.0)
    assert "no answer without an error was found" in result.explanation
    backend = ScriptedBackend(lambda prompt, sample: "[1, 2, 3]" if "mistakes" in prompt else "[1, 2]")
    result = sorting(num_samples=1).run("3 1 2", backend=backend, seed=1)
    assert (result.solved, len(backend.requests)) == (True, 2)
    result = sorting(num_samples=1, max_tries=0).run("3 1 2", backend=backend, seed=1)
    assert (result.solved, len(backend.requests)) == (False, 3)


def test_a_reply_without_a_list_is_refused_and_asked_for_again():
    backend = ScriptedBackend(lambda prompt, sample: "I cannot." if sample == 0 else "[1, 2, 3]")
    result = sorting(num_samples=1).run("3 1 2", backend=backend, seed=1)
    assert not result.solved
    assert result.answer is None  # nothing is left to improve: refused thoughts are passed over by what keeps the best
    result = sorting(num_samples=2).run("3 1 2", backend=backend, seed=1)
    assert (result.solved, result.answer) == (True, "1 2 3")


def test_parts_that_did_not_survive_leave_an_answer_that_says_so():
    backend = ScriptedBackend(
        lambda prompt, sample: "no" if "List: [3, 1]" in prompt else str(sorted(lists_of(prompt)[-1]))
    )
    result = sorting(part_size=2, num_samples=1).run("3 1 4 2", backend=backend, seed=1)
    assert (result.solved, result.answer) == (False, "2 4 (part 2 of 2)")


def test_the_tree_keeps_the_best_list_and_improves_it():
    replies = {"Sort": ["[1, 2]", "[2, 1, 3]", "[3, 2, 1]"], "The": ["[1, 2]", "[1, 2, 3]", "[1]"]}
    backend = ScriptedBackend(lambda prompt, sample: replies[prompt.partition(" ")[0]][sample])
    result = sorting(method="tot", num_samples=3, max_depth=2).run("3 1 2", backend=backend, seed=1)
    assert result.solved
    assert [thought.state.answer for thought in result.graph.path(result.thought.id)] == [None, (1, 2), (1, 2, 3)]
    assert [request.num_samples for request in backend.requests] == [3, 3]


def test_a_budget_leaves_the_best_part_so_far():
    numbers = " ".join(map(str, random_numbers(64, random.Random(1))))
    result = sorting().run(numbers, backend=sorter(0.05), seed=1, budget="calls=12")
    assert (result.stopped, result.usage.calls, result.solved) == ("budget", 12, False)
    assert re.fullmatch(r"[\d ]+ \(part \d of 4\)", result.answer)


def test_a_run_that_a_budget_stopped_goes_on_where_it_was(tmp_path):
    numbers = " ".join(map(str, random_numbers(64, random.Random(1))))
    options = {"seed": 1, "store": open_store(tmp_path)}
    stopped = sorting().run(numbers, backend=sorter(0.05), budget="calls=25", max_in_flight=1, **options)
    assert stopped.stopped == "budget"
    backend = sorter(0.05)
    result = sorting().run(numbers, backend=backend, resume=stopped.run_id, max_in_flight=1, **options)
    alone = sorting().run(numbers, backend=sorter(0.05), seed=1, max_in_flight=1)
    assert result.graph.to_json() == alone.graph.to_json()
    assert result.usage.calls == alone.usage.calls == 25 + sum(request.num_samples for request in backend.requests)


def test_the_same_seed_makes_the_same_graph():
    numbers = " ".join(map(str, random_numbers(40, random.Random(2))))
    graphs = {sorting().run(numbers, backend=sorter(0.1), seed=3).graph.to_json() for _ in range(2)}
    assert len(graphs) == 1


def test_what_a_rule_says():
    errors = error_counter(TASK)
    assert errors(Numbers(given=(2, 1))).score == 0.0
    assert errors(Numbers(given=(2, 1), answer=(2, 1))).score == -1.0
    assert errors(Numbers(given=(2, 1), answer=(2, 1))).reason == "1 error"
    refused = TASK.answered(Numbers(given=(2, 1)), "nothing")
    assert errors(refused) == Verdict(valid=False, reason="the reply holds no list of numbers")


def test_the_operations_can_be_drawn():
    drawn = str(compile_program(sorting()).controller.operations).splitlines()
    assert drawn[0] == "start → split: Generate(generator='split')"
    assert "improve → merge: Decide(choose=until_one_is_left, max_rounds=64)" in drawn
    assert "    given → pairs: Aggregate(generator='merge', num_samples=5, size=2)" in drawn
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(program_lines(compile_program(sorting())))
    shown = console.export_text()
    assert all(line in shown for line in drawn)


def test_parameters_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="part_size=8 has no effect with method=io; it belongs to method=got"):
        sorting(method="io", part_size=8)
    with pytest.raises(OptionError, match="part_size=0; allowed is a whole number >= 1"):
        sorting(part_size=0)
    with pytest.raises(OptionError, match="max_tries=-1; allowed is a whole number >= 0"):
        sorting(max_tries=-1)
    with pytest.raises(OptionError, match="method='merge'; allowed are io, cot, tot, got"):
        sorting(method="merge")
