"""What a run comes back with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, cast

from llmprog.json_values import as_json
from llmprog.pictures.fragments import card, facts, folded, heading
from llmprog.pictures.svg import GREEN
from llmprog.search.controller import VoteResult
from llmprog.search.graph_picture import graph_html
from llmprog.search.thought_graph import Thought, ThoughtGraph
from llmprog.templates import shown_value
from llmprog.types import Usage

_MAX_PARTS, _MAX_THOUGHTS = 20, 120  # in notebooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found and what it spent.

    Attributes:
        program: The program's name.
        input: What it was given.
        answer: The answer of the solving thought, of the vote, or of the best thought so far; ``None`` if
            there is none.
        solved: A goal was reached, or, for a program without a goal, there is an answer.
        stopped: Why the search ended: ``goal``, ``exhausted``, ``max_depth``, ``num_samples``, ``confident``,
            ``budget``, ``interrupted`` …; of a joined program also ``finished`` and ``unsolved`` (a part was not).
        explanation: Why there is no solution, where the program can tell.
        votes: The vote, for voting controllers.
        usage: Calls, tokens and money.
        graph: Every thought, with its provenance. Of a joined program: its input, and of each run of a part its answer,
            made from the answers that it was given.
        thought: The thought that was answered with.
        wall_s: Seconds from start to end.
        seed: Repeats the run.
        backend: Id of the backend, or ids by node.
        run_id: By which the run is found in its store; ``None`` if it was not kept.
        shortfall: Which limit of the budget the run came up against, and how much of it was spent.
        parts: What the runs of the parts of a joined program came to, by label, in the order in which they were begun;
            empty for a search.
    """

    program: str
    input: Any
    answer: Any
    solved: bool
    stopped: str
    explanation: str | None
    votes: VoteResult | None
    usage: Usage
    graph: ThoughtGraph = field(repr=False)
    thought: Thought | None = field(repr=False)
    wall_s: float
    seed: int
    backend: str
    run_id: str | None = None
    shortfall: str | None = None
    parts: Mapping[str, Result] = field(default_factory=dict, repr=False)

    @property
    def why_unsolved(self) -> str:
        """Why there is no solution, in a few words; empty where there is one."""
        if self.solved:
            return ""
        if self.explanation:
            return self.explanation
        if self.shortfall is not None:
            return f"the budget is spent ({self.shortfall})"
        return "it was interrupted" if self.stopped == "interrupted" else "no solution found"

    @property
    def spent(self) -> str:
        """Calls, tokens and money in words."""
        usage = self.usage
        money = "unknown cost" if usage.usd is None else f"${usage.usd:.4f}"
        cached = f" (and {usage.cache_hits} answered from the cache)" if usage.cache_hits else ""
        tokens = f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens"
        return f"{usage.calls} calls{cached}, {tokens}, {money}"

    def _repr_html_(self) -> str:
        return card(self._html())

    def _html(self, max_parts: int = _MAX_PARTS, max_thoughts: int = _MAX_THOUGHTS) -> str:
        """What notebooks show: the answer or why there is none, the vote, what was spent, the graph when unfolded."""
        answer = "" if self.answer is None else shown_value(self.answer)
        rows = {
            "program": self.program,
            "input": shown_value(self.input),
            "best so far": "" if self.solved else answer,
            "spent": f"{self.spent}, {self.wall_s:.2f} s",
            "stopped": self.stopped + (f" ({self.shortfall})" if self.shortfall else ""),
            "seed": f"{self.seed}, {self.backend}",
            "run": "" if self.run_id is None else f"{self.run_id}  (llmprog view {self.run_id})",
        }
        answered_with = None if self.thought is None else self.thought.id
        left_out = len(self.parts) - max_parts
        return "".join(
            (
                heading(answer, colour=GREEN) if self.solved else heading(f"Not solved: {self.why_unsolved}"),
                "" if self.votes is None else self.votes._repr_html_(),
                facts((name, value) for name, value in rows.items() if value),
                folded(f"{len(self.graph)} thoughts", graph_html(self.graph, answered_with, max_thoughts)),
                *(folded(f"part {label}", part._html(0, 30)) for label, part in islice(self.parts.items(), max_parts)),
                facts([("parts", f"{left_out} more in .parts")]) if left_out > 0 else "",
            )
        )

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values, and its parts as ``parts``, without the graphs (``graph.to_json()`` has those)."""
        usage = asdict(self.usage)
        content = {
            "program": self.program,
            "input": self.input,
            "answer": None if self.answer is None else shown_value(self.answer),
            "solved": self.solved,
            "stopped": self.stopped,
            "explanation": self.explanation,
            "votes": None if self.votes is None else self.votes.to_json(),
            "usage": usage,
            "thoughts": len(self.graph),
            "wall_s": self.wall_s,
            "seed": self.seed,
            "backend": self.backend,
            "run": self.run_id,
            "shortfall": self.shortfall,
            "parts": {label: part.to_json() for label, part in self.parts.items()},
        }
        return cast("dict[str, Any]", as_json(content))
