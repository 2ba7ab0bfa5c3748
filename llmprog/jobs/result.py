"""What a row of a job came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmprog.errors import NodeError
from llmprog.json_values import as_json
from llmprog.pictures import draw_votes
from llmprog.pictures.fragments import card, drawn, facts, heading
from llmprog.pictures.svg import GREEN, RED
from llmprog.redaction import redact
from llmprog.running.result import Result
from llmprog.search.voting import canonical_answer
from llmprog.templates import shown_value
from llmprog.types import Usage


@dataclass(frozen=True, slots=True)
class RowTask:
    """A row to be worked on: all that an executor needs to know of it.

    Attributes:
        index: Its place among the rows.
        row: Its columns.
        input: What the program is run on.
        gold: The right answer, where the row holds one.
        seed: Of this row's run.
    """

    index: int
    row: Mapping[str, Any]
    input: Any
    gold: Any
    seed: int


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no result: the error's type and what it says."""

    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What a row came to.

    Attributes:
        index: The row's place among the rows, from 0.
        row: Its columns; ``None`` where it could not be read.
        answer: The answer as text; the best so far of an unsolved row; ``None`` where there is none.
        solved: Whether the program's goal was reached or, for a program without one, whether there is an answer.
        stopped: Why the search ended, as in ``Result``; ``error`` where an error ended it.
        votes: ``(answer, votes)``, most votes first; ``None`` where nothing was put to the vote.
        num_samples: Samples drawn for the vote, those without a valid answer included; ``None`` where there was none.
        num_allowed: Samples that the vote might have drawn; ``None`` where there was none.
        confidence: Of the vote, where there was one.
        correct: Whether the row is solved and its answer is the right one; ``None`` where no right one is known.
        usage: What the row's run spent.
        error: Why it failed; ``None`` where it did not.
        seed: Repeats the row's run.
        is_recalled: Whether an earlier session of the job came to it.
    """

    index: int
    row: Mapping[str, Any] | None
    answer: str | None = None
    solved: bool = False
    stopped: str
    votes: tuple[tuple[str, float], ...] | None = None
    num_samples: int | None = None
    num_allowed: int | None = None
    confidence: float | None = None
    correct: bool | None = None
    usage: Usage = Usage()
    error: RowError | None = None
    seed: int
    is_recalled: bool = False

    def _repr_html_(self) -> str:
        """What notebooks show: the answer or why there is none, the vote, the row."""
        if self.error is not None:
            head = heading(f"{self.error.type}: {self.error.message}", f"row {self.index}", colour=RED)
        else:
            answer = "no answer" if self.answer is None else self.answer
            head = heading(answer, f"row {self.index}, {self.stopped}", colour=GREEN if self.solved else None)
        judged = [] if self.correct is None else [("correct", "yes" if self.correct else "no")]
        spent = ("spent", f"{self.usage.calls} calls, {self.usage.completion_tokens} completion tokens")
        row = [(str(name), shown_value(value)) for name, value in (self.row or {}).items()]
        votes = drawn(draw_votes(self.votes, f"{self.num_samples} samples drawn")) if self.votes else ""
        return card(head, votes, facts([*row, *judged, spent]))

    def to_json(self) -> dict[str, Any]:
        """It as JSON values, without ``is_recalled``."""
        return {
            "index": self.index,
            "row": as_json(self.row),
            "answer": self.answer,
            "solved": self.solved,
            "stopped": self.stopped,
            "votes": None if self.votes is None else [{"answer": a, "votes": n} for a, n in self.votes],
            "num_samples": self.num_samples,
            "num_allowed": self.num_allowed,
            "confidence": self.confidence,
            "correct": self.correct,
            "usage": {name: getattr(self.usage, name) for name in _USAGE},
            "error": None if self.error is None else {"type": self.error.type, "message": self.error.message},
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowResult:
        """What ``to_json`` wrote, as recalled."""
        given = {name: value[name] for name in _KEPT_AS_IS}
        votes, error = value["votes"], value["error"]
        return cls(
            **given,
            votes=None if votes is None else tuple((entry["answer"], entry["votes"]) for entry in votes),
            num_samples=value.get("num_samples"),  # rows of older versions have neither
            num_allowed=value.get("num_allowed"),
            usage=Usage(**value["usage"]),
            error=None if error is None else RowError(**error),
            is_recalled=True,
        )


_USAGE = tuple(field.name for field in fields(Usage))
_KEPT_AS_IS = ("index", "row", "answer", "solved", "stopped", "confidence", "correct", "seed")


def result_of_run(task: RowTask, result: Result, canonical: Callable[[Any], str | None]) -> RowResult:
    """A row's result from the result of its run.

    Args:
        task: The row.
        result: What the program came to.
        canonical: The form in which the program compares answers.
    """
    votes = result.votes
    return RowResult(
        index=task.index,
        row=task.row,
        answer=None if result.answer is None else redact(shown_value(result.answer)),
        solved=result.solved,
        stopped=result.stopped,
        votes=None if votes is None else tuple((redact(shown_value(a)), n) for a, n in votes.histogram),
        num_samples=None if votes is None else votes.num_samples,
        num_allowed=None if votes is None else votes.num_allowed,
        confidence=None if votes is None else votes.confidence,
        correct=None if task.gold is None else result.solved and is_correct(result.answer, task.gold, canonical),
        usage=result.usage,
        seed=task.seed,
    )


def result_of_error(task: RowTask, error: Exception) -> RowResult:
    """A row's result where an error ended its run, with what it had spent until then."""
    partial = getattr(error, "partial", None)
    return RowResult(
        index=task.index,
        row=task.row,
        stopped="error",
        usage=partial.usage if isinstance(partial, Result) else Usage(),
        error=RowError(type(error).__name__, redact(str(error))),
        seed=task.seed,
    )


def is_correct(answer: Any, gold: Any, canonical: Callable[[Any], str | None] = canonical_answer) -> bool:
    """Whether two answers are the same in canonical form: numbers as exact rationals, other text in folded form.

    Raises:
        NodeError: ``canonical`` cannot take the answer or the right answer.
    """

    def form(given: Any) -> str | None:
        try:
            return canonical(given)
        except Exception as error:  # any error of a user's function: named and raised again
            raise NodeError("canonical", f"raised {type(error).__name__}: {error} for {given!r:.100}") from error

    wanted = form(gold)
    return wanted is not None and (wanted == form(answer) or wanted == form(shown_value(answer)))
