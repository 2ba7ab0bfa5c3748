"""When a single line of thought goes on, and how far it goes back: policies, and the published rules."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from llmprog.errors import OptionError
from llmprog.search.controller import is_whole

ProposalVerdict: TypeAlias = Literal["valid", "refused", "unreadable", "repeated", "too_deep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a policy decides on: a round has just proposed a next step.

    Attributes:
        verdict: What became of the proposal: ``valid``; ``refused`` by a checker; ``unreadable``, where no state could
            be made of it; ``repeated``, where it is on the line already; ``too_deep``, valid and at ``max_depth``
            without reaching the goal.
        line: The states of the line, from the root to the one that the proposal was made from.
        visits: Rounds that began from each of them, this one included.
        failures: How many of these rounds came to nothing that could be gone on from, this one included.
        ages: Rounds since the line last came to each of them, this one included.
        scores: The score of each of them.
        proposal: The state proposed; ``None`` if there is none.
        proposal_visits: Rounds that began from it earlier.
        proposal_score: Its score; 0 if there is none.
        num_rounds: Rounds so far, this one included.
        num_stalled: Rounds since the line was first as long as it has been at most, counted anew after going back by
            three steps or more.
        max_rounds: Rounds at most.
        max_depth: Steps of the line at most.
    """

    verdict: ProposalVerdict
    line: tuple[Any, ...]
    visits: tuple[int, ...]
    failures: tuple[int, ...]
    ages: tuple[int, ...]
    scores: tuple[float, ...]
    proposal: Any
    proposal_visits: int
    proposal_score: float
    num_rounds: int
    num_stalled: int
    max_rounds: int
    max_depth: int

    @property
    def depth(self) -> int:
        """Steps from the root to the thought that the proposal was made from."""
        return len(self.line) - 1


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decides.

    Attributes:
        back: Steps back from the proposal: 0 goes on from it, 1 tries again where it was made, 2 goes to the parent of
            that, and so on; the root at the furthest. A proposal that cannot be gone on from is left by one step at
            least.
        stop: Give up.
    """

    back: int = 0
    stop: bool = False


class Policy(Protocol):
    """Decides after every round; it holds no run state, and its randomness is the controller's."""

    def decide(self, situation: Situation, rng: random.Random) -> Decision:
        """Go on, go back, or stop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRules:
    """The rule-based policy (the controller of Long 2023, arXiv 2305.08291, as its published code has it).

    * A valid proposal is gone on from, unless ``max_visits`` rounds began there in vain already.
    * Otherwise back by one step: try again from the same thought.
    * But back by two once ``max_visits`` rounds have begun from that thought.
    * Without progress for ``patience`` rounds, back by half the line, three steps at least (an addition: without
      it the line may circle in a branch that cannot be completed until its rounds are used up).

    Attributes:
        max_visits: Rounds that may begin from a thought.
        patience: Rounds without a longer line; ``None`` for any number.
    """

    max_visits: int = 5
    patience: int | None = 20

    def __post_init__(self) -> None:
        if not is_whole(self.max_visits, 1):
            raise OptionError(f"RollbackRules(max_visits={self.max_visits!r}): allowed is a whole number >= 1")
        if self.patience is not None and not is_whole(self.patience, 1):
            raise OptionError(f"RollbackRules(patience={self.patience!r}): allowed is a whole number >= 1, or None")

    def decide(self, situation: Situation, rng: random.Random) -> Decision:
        """Go on, or go back as far as the rules say; never stop."""
        if situation.verdict == "valid" and situation.proposal_visits < self.max_visits:
            return Decision()
        if self.patience is not None and situation.num_stalled >= self.patience:
            return Decision(back=max(3, (situation.depth + 1) // 2))
        return Decision(back=2 if situation.visits[-1] >= self.max_visits else 1)
