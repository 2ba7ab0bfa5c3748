"""What a generator is told beside the state by a controller that remembers: hints from memory and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from llmprog.errors import OptionError
from llmprog.search.controller import is_whole
from llmprog.search.rollback import ProposalVerdict
from llmprog.templates import Hint

_MAX_SAID = 200  # characters of a proposal in a hint


class Round(NamedTuple):
    """One round of a line of thought.

    Attributes:
        thought: The thought that a next step was asked for.
        said: What the model said, or the state it led to where no model was asked directly; empty if nothing could be
            read.
        verdict: What became of it.
        reason: Why a checker refused it, if it said so.
    """

    thought: int
    said: str
    verdict: ProposalVerdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the controller remembers when it asks for the next step.

    Attributes:
        thought: The thought that a step is asked for.
        line: The states from the root to it.
        visits: Rounds that began from each of them, the one that begins now included.
        rounds: All rounds so far, the full dialogue.
    """

    thought: int
    line: tuple[Any, ...]
    visits: tuple[int, ...]
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompter:
    """Hints that say what has been tried from here and why it failed; the dialogue says what was said, round by round.

    A prompt uses them as ``{hint}`` and ``{dialogue}``. Any function of a ``Memory`` that returns a ``Hint`` will do.

    Attributes:
        max_dialogue: The last rounds that are in the dialogue; ``None`` for all.
        max_tried: The last failures from here that are in the hint.
    """

    max_dialogue: int | None = 10
    max_tried: int = 10

    def __post_init__(self) -> None:
        if self.max_dialogue is not None and not is_whole(self.max_dialogue, 1):
            raise OptionError(f"Prompter(max_dialogue={self.max_dialogue!r}): allowed is a whole number >= 1, or None")
        if not is_whole(self.max_tried, 1):
            raise OptionError(f"Prompter(max_tried={self.max_tried!r}): allowed is a whole number >= 1")

    def __call__(self, memory: Memory) -> Hint:
        """The hint for the round that begins."""
        tried = dict.fromkeys(
            f"- {_short(past.said)}: {fault}" if past.said else f"- {fault}"
            for past in memory.rounds
            if past.thought == memory.thought
            for fault in ["it led nowhere" if past.verdict == "valid" else _judged(past)]
        )
        hint = ""
        if tried:
            listed = "\n".join(list(tried)[-self.max_tried :])
            hint = f"Tried from here before, without success:\n{listed}\nPropose something else."
        rounds = memory.rounds if self.max_dialogue is None else memory.rounds[-self.max_dialogue :]
        first = len(memory.rounds) - len(rounds) + 1
        said = (f"Step {i}: {past.said}\nChecker: {_judged(past)}" for i, past in enumerate(rounds, first))
        return Hint(hint=hint, dialogue="\n".join(said))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SAID else line[: _MAX_SAID - 1] + "…"


def _judged(past: Round) -> str:
    """What became of a proposal, in words."""
    if past.verdict == "refused":
        return f"refused, {past.reason}" if past.reason else "refused"
    return {
        "valid": "valid",
        "unreadable": "it could not be read",
        "repeated": "it leads back to an earlier step",
        "too_deep": "the last step allowed, and not a solution",
    }[past.verdict]
