from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.search import canonical_answer
from llmprog.search.voting import Tally


@pytest.mark.parametrize(
    "group",
    [
        ["1,234", "1234.0", "1234", 1234, 1234.0, Decimal("1234.00"), Fraction(1234), " $1,234 ", "1,234 dollars."],
        ["$3", "3", 3],
        ["0.5", "1/2", 0.5, Fraction(1, 2), ".5"],
        [0.1, "0.1", Decimal("0.1"), Fraction(1, 10)],
        ["New  York", "new york", " NEW YORK\n"],
        ["-2", -2, "−2"],
    ],
)
def test_these_answers_are_equal(group):
    assert len({canonical_answer(answer) for answer in group}) == 1


def test_these_answers_differ():
    forms = [canonical_answer(a) for a in ("3", "4", "3.5", "three", True, False, (3,), "1/3", 0.3333)]
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize("answer", [None, "", "  ", float("nan"), float("inf"), Decimal("Infinity")])
def test_these_do_not_vote(answer):
    assert canonical_answer(answer) is None


@given(st.one_of(st.text(max_size=200), st.integers(), st.floats(), st.fractions(), st.decimals(), st.binary()))
def test_any_answer_has_a_form_or_none(answer):
    form = canonical_answer(answer)
    assert form is None or isinstance(form, str)


def test_huge_numbers_are_compared_too():
    assert canonical_answer(10**400) == str(10**400)
    assert canonical_answer(10**5000) == canonical_answer(Fraction(10**5000)) != canonical_answer(10**5000 + 1)
    assert canonical_answer(Decimal("1E+999999")) == canonical_answer(Decimal("10E+999998"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.floats(-5, 0))), max_size=20))
def test_the_ranking_is_by_votes_then_mean_logprob_then_first_seen(samples):
    tally = Tally()
    for answer, logprob in samples:
        tally.add(answer, logprob)
    ranking = tally.ranking()
    assert dict(ranking) == {a: sum(x == a for x, _ in samples) for a in {x for x, _ in samples}}
    logprobs = {a: [p for x, p in samples if x == a and p is not None] for a in dict(ranking)}
    order = list(dict.fromkeys(x for x, _ in samples))
    for (a, n), (b, m) in itertools.pairwise(ranking):
        assert n >= m
        if n == m:
            if all(logprobs.values()):
                mean = [sum(logprobs[x]) / len(logprobs[x]) for x in (a, b)]
                assert mean[0] >= mean[1] - 1e-12
            else:
                assert order.index(a) < order.index(b)
