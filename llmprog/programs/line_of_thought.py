"""The line of thought that puzzle programs follow: by the published rules, or by a policy that was learned."""

from __future__ import annotations

from llmprog.errors import OptionError
from llmprog.search import PolicyController, RollbackRules, TreeOfThoughtController, load_policy


def line_of_thought(
    max_depth: int, max_rounds: int, *, max_visits: int | None, policy: str | None
) -> TreeOfThoughtController:
    """A controller that follows one line of thought.

    Args:
        max_depth: Its steps at most.
        max_rounds: Steps tried at most.
        max_visits: For the rules: steps tried from a thought before going back by two; 5 by default.
        policy: A file of a learned policy, instead of the rules.

    Raises:
        OptionError: Both a policy and ``max_visits`` are given, or the file holds no policy.
    """
    if policy is None:
        rules = RollbackRules() if max_visits is None else RollbackRules(max_visits=max_visits)
        return TreeOfThoughtController(max_depth=max_depth, max_rounds=max_rounds, policy=rules)
    if max_visits is not None:
        raise OptionError(f"max_visits={max_visits!r} has no effect with policy={policy!r}; it is one of the rules")
    return PolicyController(max_depth=max_depth, max_rounds=max_rounds, policy=load_policy(policy))
