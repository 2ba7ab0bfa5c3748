"""How the votes of a job's rows stand: those that have ended in numbers, those in hand one by one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import islice

from llmprog.events import Event, RunFinished, VotesChanged
from llmprog.jobs.result import RowResult
from llmprog.redaction import redact
from llmprog.search.controller import VoteResult
from llmprog.templates import shown_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the vote of a row in hand stands.

    Attributes:
        row: The row's place among the rows.
        leader: The leading answer, as a model wrote it: control characters and all, secrets blacked out.
        share: Its share of the votes, from 0 to 1.
        words: How many votes that is, how sure it is, how many samples have been asked for.
    """

    row: int
    leader: str
    share: float
    words: str


@dataclass(slots=True)
class JobVotes:
    """The votes of a job's rows; kept up to date by events and results, and looked at from another thread.

    Attributes:
        num_ended: Votes that have come to an end, in earlier sessions, too.
        num_early: Those of them that were decided before all samples had been asked for that they might have.
        num_samples: Samples that all of them asked for.
        num_allowed: Samples that they might have asked for.
    """

    num_ended: int = 0
    num_early: int = 0
    num_samples: int = 0
    num_allowed: int = 0
    _in_hand: dict[int, VoteResult] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def take_event(self, row: int, event: Event) -> None:
        """Take note of how the vote of a row stands; once its search has ended, ``take_row`` counts it."""
        if isinstance(event, VotesChanged):
            with self._lock:
                self._in_hand[row] = event.votes
        elif isinstance(event, RunFinished):
            with self._lock:
                self._in_hand.pop(row, None)

    def take_row(self, result: RowResult) -> None:
        """Count the vote of a row that is done, where it held one; no event tells of an error that ended it."""
        with self._lock:
            self._in_hand.pop(result.index, None)
        if result.num_samples is None or result.num_allowed is None:
            return
        self.num_ended += 1
        self.num_early += result.num_samples < result.num_allowed
        self.num_samples += result.num_samples
        self.num_allowed += result.num_allowed

    def in_hand(self, limit: int) -> list[Standing]:
        """The votes that have begun first among those under way and have a leader."""
        with self._lock:
            begun = [(row, votes) for row, votes in self._in_hand.items() if votes.histogram]
        return [_standing(row, votes) for row, votes in islice(begun, limit)]

    def in_words(self) -> str | None:
        """How many votes were decided early, and the samples that a vote asked for; ``None`` before any has ended."""
        if not self.num_ended:
            return None
        asked, allowed = self.num_samples / self.num_ended, self.num_allowed / self.num_ended
        early = f"{self.num_early} of {self.num_ended} votes decided early"
        return f"{early}, {asked:.3g} of {allowed:.3g} samples each"


def _standing(row: int, votes: VoteResult) -> Standing:
    answer, count = votes.histogram[0]
    total = sum(number for _, number in votes.histogram)
    words = [f"{count:.4g} of {total:.4g} votes"]
    if votes.confidence is not None:
        words.append(f"{votes.confidence:.0%} sure")
    words.append(f"{votes.num_samples} of {votes.num_allowed} samples")
    return Standing(
        row=row,
        leader=redact(shown_value(answer)),
        share=count / total if total else 0.0,
        words=", ".join(words),
    )
