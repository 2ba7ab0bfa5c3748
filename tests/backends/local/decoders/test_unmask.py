from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmprog.backends.local.decoders import unmask
from llmprog.backends.local.decoders.unmask import Credit, EntropyBound, Factor, Hierarchical, Quota, Step, Threshold


def step_of(eligible: list[list[bool]], **values: Tensor) -> Step:
    """A step of rows whose block begins in column 0."""
    shown = torch.tensor(eligible)
    return Step(
        **{
            "eligible": shown,
            "columns": torch.arange(shown.shape[1]).expand_as(shown).contiguous(),
            "number": torch.zeros(len(shown), dtype=torch.int64),
            "masks": shown.sum(1),
            "keys": torch.arange(len(shown)),
            "counters": torch.arange(shown.shape[1]).expand_as(shown),
            "state": {},
            **values,
        }
    )


def revealed(rule: unmask.UnmaskRule, confidence: list[float], masked: list[bool] | None = None) -> list[int]:
    eligible = [True] * len(confidence) if masked is None else masked
    shown = torch.tensor([confidence]).masked_fill(~torch.tensor([eligible]), -math.inf)
    return rule.reveal(shown, step_of([eligible]))[0].nonzero().squeeze(1).tolist()


@pytest.mark.parametrize(
    ("rule", "confidence", "expected"),
    [
        (Quota(2), [0.1, 0.9, 0.5, 0.9, 0.2], [1, 2, 3]),
        (Quota(3), [0.9, 0.9, 0.9, 0.9], [0, 1]),  # the first of equals
        (Threshold(0.6, "confident"), [0.1, 0.59, 0.5], [1]),
        (Threshold(0.6, "confident"), [0.6, 0.59, 0.7], [0, 2]),
        (Threshold(0.6, "leftmost"), [0.1, 0.59, 0.7], [0, 2]),
        (Factor(0.5), [0.9, 0.2, 0.85, 0.86], [0, 3]),  # 2 * 0.1, 3 * 0.14 and 4 * 0.15
        (Factor(0.1), [0.3, 0.2], [0]),
        (EntropyBound(1.0), [-0.5, -2.0, -0.4, -0.2], [0, 2, 3]),  # 0, 0.2, 0.6, 1.1 before them
        (EntropyBound(0.0), [-0.5, -0.4], [1]),
        (Hierarchical(0.95, 0.5), [0.6, 0.7, 0.96, 0.4], [2]),
        (Hierarchical(0.95, 0.5), [0.1, 0.4, 0.3], [1]),
    ],
)
def test_what_a_rule_reveals(rule: unmask.UnmaskRule, confidence: list[float], expected: list[int]) -> None:
    assert revealed(rule, confidence) == expected


def test_hierarchical_reveals_the_best_of_every_run() -> None:
    masked = [True, True, True, False, True, True, False, True]
    confidence = [0.6, 0.7, 0.6, 1.0, 0.8, 0.97, 1.0, 0.3]
    assert revealed(Hierarchical(0.99, 0.5), confidence, masked) == [1, 5]
    assert revealed(Hierarchical(0.99, 0.2), confidence, masked) == [1, 5, 7]
    assert revealed(Hierarchical(0.8, 0.5), confidence, masked) == [1, 4, 5]


@pytest.mark.parametrize(
    "rule", [Quota(2), Threshold(0.0, "leftmost"), Factor(1.0), EntropyBound(9.0), Hierarchical(0.0, 0.0)]
)
def test_nothing_is_revealed_where_nothing_is_masked(rule: unmask.UnmaskRule) -> None:
    step = step_of([[False, False], [False, True]])
    confidence = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).masked_fill(~step.eligible, -math.inf)
    assert rule.reveal(confidence, step).tolist() == [[False, False], [False, True]]


def test_credit_makes_a_token_that_keeps_being_predicted_surer() -> None:
    rule = Credit(0.9, "confident", weight=1.0, decay=0.5, power=0.5)
    step = step_of([[True, False]])
    step.state = rule.new_state(torch.zeros(1, 2, dtype=torch.int64))
    logits = torch.tensor([[[0.0, math.log(3.0), -math.inf], [0.0, 9.0, 0.0]]])
    share = 0.75
    credit = 0.0
    for _ in range(3):
        credit = 0.5 * credit + share**0.5
        adjusted = rule.adjusted(logits, step)
        assert adjusted[0, 0, 1] == pytest.approx(math.log(3.0) + math.log1p(credit))
        assert adjusted[0, 0, 0] == 0
        assert adjusted[0, 0, 2] == -math.inf
    assert step.state["credit"][0, 1].sum() == 0  # what is not eligible earns nothing


def test_credit_forgets_the_token_with_the_least_of_it_when_there_are_too_many() -> None:
    rule = Credit(0.9, "confident", weight=1.0, decay=0.5, power=0.5)
    step = step_of([[True]])
    step.state = rule.new_state(torch.zeros(1, 1, dtype=torch.int64))
    size = unmask.CREDIT_SLOTS + 1
    for token in range(size):
        rule.adjusted(torch.eye(size)[token].mul(5.0).view(1, 1, -1), step)
    kept = step.state["credit_token"][0, 0].tolist()
    assert sorted(kept) == list(range(1, size))
    credit = dict(zip(kept, step.state["credit"][0, 0].tolist(), strict=True))
    assert [credit[token] / credit[token - 1] for token in range(2, size)] == pytest.approx([2.0] * (size - 2))


def test_entropy_takes_forbidden_tokens_as_they_are() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf], [5.0, -math.inf, -math.inf]])
    assert unmask.entropy(logits).tolist() == pytest.approx([math.log(2.0), 0.0])
