"""What voting programs have in common: when a vote may stop before all its samples are drawn."""

from __future__ import annotations

from typing import Literal

from llmprog.programs.catalog import for_method, one_of
from llmprog.search import BetaStop, StoppingRule, WindowStop

Stopping = Literal["none", "beta", "window"]


def stopping_rule(stopping: Stopping, confidence: float | None, window: int | None) -> StoppingRule | None:
    """The rule that a program's settings name; ``None`` draws all samples.

    Args:
        stopping: Which one.
        confidence: Of ``beta``; 0.95 if not given.
        window: Of ``window``; 5 if not given.

    Raises:
        OptionError: There is no such rule, or a value has no effect on it.
    """
    one_of("stopping", stopping, Stopping)
    wanted = for_method("confidence", confidence, stopping, {"beta": 0.95}, chooser="stopping")
    size = for_method("window", window, stopping, {"window": 5}, chooser="stopping")
    if wanted is not None:
        return BetaStop(wanted)
    return None if size is None else WindowStop(size)
