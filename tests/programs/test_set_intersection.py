"""The set_intersection program: its errors, its input, and what is asked of parts and of merges."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError
from llmprog.programs.set_intersection import num_errors, parse_sets, random_sets, set_intersection

SETS = "1 5 9 12 3 / 2 5 9 14 3"


def exact(prompt: str, sample: int) -> str:
    """Intersects the sets, or puts two lists together, of the task of a prompt."""
    task = prompt.rpartition("\n\n")[2]
    lists = [[int(word) for word in found.split(",") if word.strip()] for found in re.findall(r"\[([^\]]*)\]", task)]
    if task.startswith("First:"):
        return str(lists[0] + lists[1])
    return str([number for number in lists[0] if number in lists[1]])


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        ([5, 9, 3], 0),
        ([3, 5, 9], 0),
        ([5, 9], 1),  # 3 is missing
        ([5, 9, 3, 12], 1),  # 12 is wrong
        ([5, 5, 9, 3], 1),  # 5 is there twice
        ([7, 7], 5),  # 3, 5 and 9 are missing, 7 is wrong, and there twice
        ([], 3),
    ],
)
def test_errors_are_missing_and_wrong_elements_and_duplicates(answer, errors):
    assert num_errors([1, 5, 9, 12, 3], [2, 5, 9, 14, 3], answer) == errors


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.lists(st.integers(0, 9), max_size=8))
def test_only_the_intersection_has_no_errors(first, second, answer):
    is_right = len(set(answer)) == len(answer) and set(answer) == first & second
    assert (num_errors(sorted(first), sorted(second), answer) == 0) == is_right


def test_two_sets_are_read_from_lines_or_between_a_slash():
    assert parse_sets("1 5 / 2 5") == parse_sets("[1, 5]\n\n[2, 5]\n") == ((1, 5), (2, 5))
    for text, complaint in [
        ("1 5", "1 sets; give two"),
        ("1/2/3", "3 sets"),
        ("1 1 / 2", "1 is in a set twice"),
        ("1 / x", "set_intersection: 'x' is not"),
    ]:
        with pytest.raises(InputError, match=complaint):
            parse_sets(text)


@given(st.integers(1, 40), st.integers(0, 1000))
def test_random_sets_are_the_same_for_the_same_seed_and_share_something(count, seed):
    first, second = random_sets(count, random.Random(seed))
    assert (first, second) == random_sets(count, random.Random(seed))
    assert len(set(first)) == len(set(second)) == len(first) == len(second) == count
    assert len(set(first) & set(second)) <= max(1, 3 * count // 4)


@pytest.mark.parametrize(("method", "calls"), [("io", 1), ("cot", 1), ("tot", 10), ("got", 5)])
def test_sets_are_intersected_by_every_method(method, calls):
    backend = ScriptedBackend(exact)
    result = set_intersection(method=method).run(SETS, backend=backend, seed=1)
    assert (result.solved, sorted(result.answer.split())) == (True, ["3", "5", "9"])
    assert result.usage.calls == calls


def test_the_first_set_is_intersected_with_parts_of_the_second_and_the_results_are_merged():
    backend = ScriptedBackend(exact)
    first, second = random_sets(32, random.Random(1))
    given = f"{' '.join(map(str, first))} / {' '.join(map(str, second))}"
    result = set_intersection(part_size=8, num_samples=1).run(given, backend=backend, seed=1)
    assert result.solved
    assert set(map(int, result.answer.split())) == set(first) & set(second)
    asked = [request.prompt.text.partition(" ")[0] for request in backend.requests]
    assert (asked.count("Find"), asked.count("Put")) == (4, 3)
    assert [len(parent.state.second) for parent in result.thought.parents] == [16, 16]


def test_parts_that_share_nothing_are_told_from_replies_without_a_list():
    result = set_intersection(part_size=2).run("1 2 / 3 4 5 6", backend=ScriptedBackend(exact), seed=1)
    assert (result.solved, result.answer) == (True, "none")
    result = set_intersection(method="io").run("1 2 / 3 4", backend=ScriptedBackend(lambda p, s: "Nothing."), seed=1)
    assert (result.solved, result.answer) == (False, None)
