"""What a learned policy sees of a situation, as numbers, and what it can decide, as numbered actions.

Both are the same for every program: a policy that was trained on one can be tried on another.

Actions are numbered: 0 goes on, 1 to ``max_back`` go back by so many steps, ``max_back + 1`` gives up.
"""

from __future__ import annotations

import math
from typing import get_args

from llmprog.search.rollback import Decision, ProposalVerdict, Situation

_VERDICTS: tuple[ProposalVerdict, ...] = get_args(ProposalVerdict)
_OF_AN_ANCESTOR = ("exists", "visits", "failures", "age", "gain")


def feature_names(max_back: int) -> tuple[str, ...]:
    """What the numbers of ``features_of`` say, in their order.

    Counts are mapped to the range from 0 to 1 by n / (n + h), which is 1/2 at h and tells small counts from each other:

    * ``verdict.*``: 1 for what became of the proposal, 0 for all others;
    * ``proposal.visits``: rounds that began from it earlier (h = 2); ``proposal.gain``: tanh of its score less that of
      the thought that it was made from;
    * ``depth``: steps of the line (h = 4); ``depth.share``, ``rounds.share``: of ``max_depth``, of ``max_rounds``;
    * ``stalled``: rounds since progress (h = 5);
    * ``ancestor.N.*`` for the thoughts of the line that the decisions lead back to; 0 is the one that the proposal was
      made from, 1 its parent: whether there is one (``exists``), rounds that began from it (``visits``, h = 2) and
      failed (``failures``, h = 2), rounds since the line came to it (``age``, h = 5), and tanh of its score less that
      of its own parent (``gain``). All are 0 beyond the root.
    """
    return (
        *(f"verdict.{verdict}" for verdict in _VERDICTS),
        "proposal.visits",
        "proposal.gain",
        "depth",
        "depth.share",
        "rounds.share",
        "stalled",
        *(f"ancestor.{i}.{name}" for i in range(max_back) for name in _OF_AN_ANCESTOR),
    )


def features_of(situation: Situation, max_back: int) -> tuple[float, ...]:
    """The situation as numbers between -1 and 1, those that ``feature_names`` names."""
    now, scores = situation, situation.scores
    found = [float(now.verdict == verdict) for verdict in _VERDICTS]
    found += [
        _saturated(now.proposal_visits, 2),
        0.0 if now.proposal is None else _gain(now.proposal_score, scores[-1]),
        _saturated(now.depth, 4),
        now.depth / now.max_depth,
        now.num_rounds / now.max_rounds,
        _saturated(now.num_stalled, 5),
    ]
    for i in range(now.depth, now.depth - max_back, -1):
        if i < 0:
            found += [0.0] * len(_OF_AN_ANCESTOR)
            continue
        found += [
            1.0,
            _saturated(now.visits[i], 2),
            _saturated(now.failures[i], 2),
            _saturated(now.ages[i], 5),
            _gain(scores[i], scores[i - 1]) if i else 0.0,
        ]
    return tuple(found)


def _saturated(count: int, half: int) -> float:
    return count / (count + half)


def _gain(score: float, before: float) -> float:
    gain = math.tanh(score - before)
    return 0.0 if math.isnan(gain) else gain  # both may be infinite


def num_actions(max_back: int) -> int:
    """How many actions there are."""
    return max_back + 2


def allowed_actions(situation: Situation, max_back: int) -> tuple[bool, ...]:
    """Which actions are possible: going on from what can be gone on from, back to the root at most, and giving up."""
    length = len(situation.line)
    return (situation.verdict == "valid", *(back <= length for back in range(1, max_back + 1)), True)


def decision_of(action: int, max_back: int) -> Decision:
    """The decision that an action stands for."""
    return Decision(stop=True) if action > max_back else Decision(back=action)
