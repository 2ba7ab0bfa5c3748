"""Tree of Thought as one line of thought with a memory: a step, its check, and on or back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmprog.errors import OptionError
from llmprog.events import ControllerEvent, ThoughtExpanded
from llmprog.search.controller import Action, Expand, Stop, is_whole, require
from llmprog.search.prompter import Memory, Prompter, Round
from llmprog.search.rollback import Decision, Policy, ProposalVerdict, RollbackRules, Situation
from llmprog.search.thought_graph import ThoughtGraph, format_state
from llmprog.search.tree_controller import TreeController
from llmprog.templates import Hint


@dataclass(kw_only=True)
class TreeOfThoughtController(TreeController):
    """One line of thought, with backtracking: LLM Guided Tree-of-Thought (Long 2023, arXiv 2305.08291).

    Each round asks for one next step (one sample). The four parts of the paper:

    * the *prompter* writes a hint from the memory, which prompts use as ``{hint}`` and ``{dialogue}``;
    * the *checkers* are the program's: a step that they refuse is never gone on from;
    * the *memory* holds the line of thoughts, how many rounds began from each thought, and what was said;
    * the *controller* proper is the ``policy``: it decides whether to go on from the step or to go back, and how far.

    If a step leads to several states, the one visited least is followed, of those the one of highest score, of those
    the first.

    Attributes:
        max_depth: Steps of the line at most.
        max_rounds: Rounds at most.
        policy: ``RollbackRules(...)``, or any object with such a ``decide``.
        prompter: ``Prompter(...)``, or any function of a ``Memory`` that returns a ``Hint``.
    """

    max_depth: int
    max_rounds: int = 100
    policy: Policy = field(default_factory=RollbackRules)
    prompter: Callable[[Memory], Hint] = field(default_factory=Prompter)
    line: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    reached: list[int] = field(default_factory=lambda: [0], init=False, repr=False)  # the round, by place in the line
    visits: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    failures: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    rounds: list[Round] = field(default_factory=list, init=False, repr=False)
    num_rounds: int = field(default=0, init=False, repr=False)
    deepest: int = field(default=0, init=False, repr=False)  # steps of the longest line since the last new start
    progressed_at: int = field(default=0, init=False, repr=False)  # the round that made it so long
    is_waiting: bool = field(default=False, init=False, repr=False)
    proposals: list[int] | None = field(default=None, init=False, repr=False)
    said: list[tuple[int, str]] = field(default_factory=list, init=False, repr=False)  # by child, where a model said it

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("max_depth", "max_rounds"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        has_decide = callable(getattr(self.policy, "decide", None)) and not isinstance(self.policy, type)
        require(
            found, "policy", self.policy, "RollbackRules(...), or an object with decide(situation, rng)", has_decide
        )
        is_function = callable(self.prompter) and not isinstance(self.prompter, type)
        require(found, "prompter", self.prompter, "Prompter(...), or a function of a Memory", is_function)
        require(found, "stop_on_goal", self.stop_on_goal, "True: a line of thought ends at its goal", self.stop_on_goal)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rounds = [Round(*past) for past in self.rounds]

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            pairs = zip(event.children, event.completions, strict=False)  # no completions where no model was called
            self.said = [(child, completion.text) for child, completion in pairs if completion is not None]
        super().tell(event)

    def tell_family(self, parent: int, children: list[int]) -> None:
        self.proposals = children
        self.is_waiting = False

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if self.is_waiting or not capacity:
            return []
        if self.proposals is not None:
            proposals, self.proposals = self.proposals, None
            if not self._judge(graph, proposals):
                return [Stop("policy")]
        if self.num_rounds == self.max_rounds:
            return [Stop("max_rounds")]
        thought = self.line[-1]
        self.num_rounds += 1
        self.visits[thought] = self.visits.get(thought, 0) + 1
        self.is_waiting = True
        return [Expand(thought, num_samples=1, hint=self.prompter(self._memory(graph)))]

    def _judge(self, graph: ThoughtGraph, proposals: list[int]) -> bool:
        """Take note of what a round proposed and move on the line; whether the search goes on."""
        proposal, verdict = self._proposal(graph, proposals)
        reason = _reason(graph, proposal) if verdict == "refused" else ""
        self.rounds.append(Round(self.line[-1], self._words(graph, proposal), verdict, reason))
        if verdict != "valid":
            self.failures[self.line[-1]] = self.failures.get(self.line[-1], 0) + 1
        depth = len(self.line)  # of the proposal
        if verdict in ("valid", "too_deep") and depth > self.deepest:
            self.deepest, self.progressed_at = depth, self.num_rounds
        decision = self._decide(self._situation(graph, proposal, verdict))
        if not isinstance(decision, Decision) or not is_whole(decision.back, 0):
            raise OptionError(f"{self.name}: the policy decided {decision!r}; allowed is Decision(back=n) with n >= 0")
        if decision.stop:
            return False
        back = decision.back if verdict == "valid" else max(1, decision.back)
        if not back:
            self.line.append(proposal)
            self.reached.append(self.num_rounds)
        else:
            kept = max(1, len(self.line) - back + 1)
            del self.line[kept:], self.reached[kept:]
        if back >= 3:  # a new start: what is progress is measured from here
            self.deepest, self.progressed_at = len(self.line) - 1, self.num_rounds
        return True

    def _decide(self, situation: Situation) -> Decision:
        return self.policy.decide(situation, self._context.rng)

    def _proposal(self, graph: ThoughtGraph, proposals: list[int]) -> tuple[int, ProposalVerdict]:
        """The thought to follow, -1 if there is none, and what became of it."""
        if not proposals:
            return -1, "unreadable"
        usable = [thought for thought in proposals if graph.is_open(thought)]
        if not usable:
            return proposals[0], "refused"
        new = [thought for thought in usable if thought not in self.line]
        if not new:
            return usable[0], "repeated"
        chosen = min(new, key=lambda thought: (self.visits.get(thought, 0), -graph.scores[thought]))
        return chosen, "valid" if len(self.line) < self.max_depth else "too_deep"

    def _words(self, graph: ThoughtGraph, proposal: int) -> str:
        if proposal < 0:
            return ""
        return next((text for child, text in self.said if child == proposal), None) or format_state(
            graph.states[proposal]
        )

    def _situation(self, graph: ThoughtGraph, proposal: int, verdict: ProposalVerdict) -> Situation:
        return Situation(
            verdict=verdict,
            line=tuple(graph.states[thought] for thought in self.line),
            visits=tuple(self.visits.get(thought, 0) for thought in self.line),
            failures=tuple(self.failures.get(thought, 0) for thought in self.line),
            ages=tuple(self.num_rounds - reached for reached in self.reached),
            scores=tuple(graph.scores[thought] for thought in self.line),
            proposal=None if proposal < 0 else graph.states[proposal],
            proposal_visits=self.visits.get(proposal, 0),
            proposal_score=0.0 if proposal < 0 else graph.scores[proposal],
            num_rounds=self.num_rounds,
            num_stalled=self.num_rounds - self.progressed_at,
            max_rounds=self.max_rounds,
            max_depth=self.max_depth,
        )

    def _memory(self, graph: ThoughtGraph) -> Memory:
        return Memory(
            thought=self.line[-1],
            line=tuple(graph.states[thought] for thought in self.line),
            visits=tuple(self.visits.get(thought, 0) for thought in self.line),
            rounds=tuple(self.rounds),
        )


def _reason(graph: ThoughtGraph, thought: int) -> str:
    """Why a thought was refused: what the checker said, else which checker it was."""
    for checker, verdict in graph.verdicts.get(thought, ()):
        if not verdict.valid:
            return verdict.reason or f"by {checker}"
    return ""
