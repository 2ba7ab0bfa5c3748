"""The judges of one search: who of them is asked about which state, and what each verdict rests on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, NamedTuple

from llmprog.compile import CompiledProgram
from llmprog.events import Questions
from llmprog.nodes import Checker, Verdict
from llmprog.search.calls import Calls, noted_questions
from llmprog.search.judging import compare_states, judge_state
from llmprog.tasks import gather_or_cancel


class Judgement(NamedTuple):
    """What a checker said of a state, and what it had asked a model for it."""

    checker: str
    verdict: Verdict
    asked: Questions


class Comparison(NamedTuple):
    """The scores that a checker gave to several states, and what it had asked a model for them."""

    checker: str
    scores: Sequence[float]
    asked: Questions


Work = asyncio.Task[list[Judgement]]


class Judges:
    """The checkers of a program that take time. They begin with a state as soon as it has been parsed.

    Args:
        program: Whose.
        calls: The calls of the search.
        spawn: Begins work that is cancelled with the search.
    """

    def __init__(
        self, program: CompiledProgram, calls: Calls, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    ) -> None:
        self._judges: Sequence[Checker] = program.judges
        self._comparers: Sequence[Checker] = program.comparers
        self._calls = calls
        self._spawn = spawn
        self._begun: dict[Hashable, tuple[Any, Work]] = {}

    def __len__(self) -> int:
        """How many judge single states."""
        return len(self._judges)

    def begin(self, state: Any, key: Hashable) -> None:
        """Begin to judge a state, unless one with this key is being judged."""
        if key not in self._begun:
            self._begun[key] = (state, self._spawn(self._judge(state, key)))

    def work_on(self, state: Any, key: Hashable, *, is_ending: bool) -> Work | None:
        """What the judges say of a state that enters the graph; ``None`` if they are not asked.

        Args:
            state: The state.
            key: Its key.
            is_ending: Whether nothing new is to be begun.
        """
        begun = self._begun.pop(key, None)
        if begun is None:
            return None
        judged, work = begun
        if is_ending or judged is state or (judged == state and repr(judged) == repr(state)):
            return work
        # Another state with this key came back sooner. Which one is judged must not depend on timing.
        return self._spawn(self._judge(state, key))

    async def compare(self, states: Sequence[Any], occasion: int) -> list[Comparison]:
        """What the checkers that look across states say of ``states``."""
        return await gather_or_cancel(self._compare_by(comparer, states, occasion) for comparer in self._comparers)

    async def _judge(self, state: Any, key: Hashable) -> list[Judgement]:
        if len(self._judges) == 1:
            return [await self._judge_by(self._judges[0], state, key)]
        return await gather_or_cancel(self._judge_by(judge, state, key) for judge in self._judges)

    async def _judge_by(self, judge: Checker, state: Any, key: Hashable) -> Judgement:
        with noted_questions() as asked:
            verdict = await judge_state(self._calls, judge, state, key)
        return Judgement(judge.name, verdict, tuple(asked))

    async def _compare_by(self, comparer: Checker, states: Sequence[Any], occasion: int) -> Comparison:
        with noted_questions() as asked:
            scores = await compare_states(self._calls, comparer, states, occasion)
        return Comparison(comparer.name, scores, tuple(asked))
