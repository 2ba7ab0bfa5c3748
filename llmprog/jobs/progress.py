"""How far a job has come, in numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from llmprog.events import CallSettled, Event
from llmprog.jobs.result import RowResult
from llmprog.jobs.votes import JobVotes
from llmprog.types import Usage


@dataclass(slots=True, kw_only=True)
class JobProgress:
    """Counts of a job that runs; the same object throughout, brought up to date as rows and calls come in.

    Attributes:
        run_id: By which the job is found in its store; ``None`` if it is not kept.
        is_resumed: Whether earlier sessions have worked on it.
        total: How many rows there are, where that is known.
        num_rows: Rows done, those of earlier sessions included.
        num_recalled: Those of them that earlier sessions did.
        num_solved: Rows with an answer (for a program with a goal: that reach it).
        num_failed: Rows that an error ended, unreadable ones included.
        num_judged: Rows whose right answer is known.
        num_correct: Those of them that are right.
        usage: What was spent, in earlier sessions, too, whether the row came to an end or not.
        num_calls: Calls that came back in this session.
        earlier_s: Seconds that earlier sessions took.
        votes: How the votes of its rows stand, of a program that votes.
    """

    run_id: str | None = None
    is_resumed: bool = False
    total: int | None = None
    num_rows: int = 0
    num_recalled: int = 0
    num_solved: int = 0
    num_failed: int = 0
    num_judged: int = 0
    num_correct: int = 0
    usage: Usage = field(default_factory=Usage)
    num_calls: int = 0
    earlier_s: float = 0.0
    votes: JobVotes = field(default_factory=JobVotes)
    clock: Callable[[], float] = time.monotonic
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have this session's time count from now on."""
        self.begun = self.clock()

    def take_row(self, result: RowResult) -> None:
        """Count a row."""
        self.num_rows += 1
        self.num_recalled += result.is_recalled
        self.num_solved += result.solved
        self.num_failed += result.error is not None
        self.num_judged += result.correct is not None
        self.num_correct += bool(result.correct)
        self.votes.take_row(result)

    def take_event(self, row: int, event: Event) -> None:
        """Take note of what happened in the search of a row."""
        if isinstance(event, CallSettled):
            if not event.is_recalled:
                self.take_usage(event.usage)
        else:
            self.votes.take_event(row, event)

    def take_usage(self, usage: Usage) -> None:
        """Count what calls that were sent in this session have cost."""
        self.usage += usage
        self.num_calls += usage.calls

    @property
    def has_begun(self) -> bool:
        """Whether a row is done, or a call has come back."""
        return self.num_rows > 0 or self.num_calls > 0

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return self.clock() - self.begun

    @property
    def rows_per_s(self) -> float:
        """Rows that this session has done in a second."""
        return (self.num_rows - self.num_recalled) / max(self.session_s, 1e-9)

    @property
    def remaining_s(self) -> float | None:
        """Seconds that the rest will take at this rate; ``None`` where that cannot be told."""
        if self.total is None or self.num_rows == self.num_recalled:
            return None
        return max(0, self.total - self.num_rows) / self.rows_per_s

    @property
    def accuracy(self) -> tuple[float, float, float] | None:
        """The share of right answers, and its 95 % interval; ``None`` where no right answer is known."""
        return wilson_interval(self.num_correct, self.num_judged) if self.num_judged else None

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        accuracy = self.accuracy
        return {
            "run": self.run_id,
            "rows": self.num_rows,
            "recalled": self.num_recalled,
            "solved": self.num_solved,
            "failed": self.num_failed,
            "judged": self.num_judged,
            "correct": self.num_correct,
            "accuracy": None if accuracy is None else dict(zip(("value", "low", "high"), accuracy, strict=True)),
            "usage": asdict(self.usage),
            "wall_s": self.earlier_s + self.session_s,
        }


def wilson_interval(successes: int, trials: int) -> tuple[float, float, float]:
    """A share and its 95 % interval by Wilson's score (Wilson 1927), which also holds near 0 and 1."""
    z = 1.959964
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
