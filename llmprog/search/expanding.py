"""What generators make of thoughts: states that are not in the graph yet, with what the program's rules say of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from llmprog.compile import CompiledProgram
from llmprog.errors import BudgetExceededError, DeclarationError, LLMProgError
from llmprog.events import Questions
from llmprog.nodes import Generator, Verdict
from llmprog.search.calls import Calls, ModelHandle, noted_questions
from llmprog.search.generating import Numbered, as_states, question, states_of
from llmprog.search.judging import apply_rules, call_function, run_function
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.tasks import gather_or_cancel
from llmprog.templates import NO_HINT, Hint
from llmprog.types import Completion, Prompt, Request, Template

_MOST_QUESTIONS = 64  # remembered at a time


class Candidate(NamedTuple):
    """A generated state that is not in the graph yet."""

    state: Any
    key: Hashable
    generator: int
    sample: int
    completion: Completion | None
    request: Request | None
    verdicts: list[tuple[str, Verdict]]
    is_valid: bool
    is_goal: bool
    asked: Questions


class Expander:
    """Makes candidates for one search.

    Args:
        program: Its rules, its goal, and its name in errors.
        calls: Where generators with a prompt ask.
        graph: What is in it already is neither ruled on nor judged again.
        begin_judging: Told of candidates as soon as they are made.
    """

    def __init__(
        self,
        program: CompiledProgram,
        calls: Calls,
        graph: ThoughtGraph,
        begin_judging: Callable[[Iterable[Candidate]], None],
    ) -> None:
        self.is_out_of_budget = False  # some completions that were asked for could not be paid for
        self._program = program
        self._calls = calls
        self._graph = graph
        self._begin_judging = begin_judging
        self._goal = program.program.goal
        self._questions: dict[tuple[int, int], tuple[Any, Prompt | Template]] = {}

    def made_by_moves(self, generators: Sequence[Numbered], subject: Any) -> list[Candidate]:
        """What generators that ask no model make of ``subject``."""
        made: list[Candidate] = []
        for number, generator in generators:
            made.extend(self._candidate(state, number) for state in self._moves(generator, subject))
        return made

    def requests(
        self, generators: Sequence[Numbered], subject: Any, thought: int, num_samples: int | None, hint: Hint
    ) -> list[Request | None]:
        """What each generator asks next of ``thought``, -1 for several; ``None`` for those that ask by themselves."""
        return [
            self._calls.next_samples(generator, self._question(generator, number, subject, thought, hint), num_samples)
            if generator.prompt is not None
            else None
            for number, generator in generators
        ]

    def _question(self, generator: Generator, number: int, subject: Any, thought: int, hint: Hint) -> Prompt | Template:
        """The prompt for a thought, remembered while the thought is expanded again and again."""
        if hint is not NO_HINT:
            return question(generator, subject, hint)
        known = self._questions.get((number, thought))
        if known is not None and known[0] is subject:
            return known[1]
        asked = question(generator, subject, hint)
        if len(self._questions) >= _MOST_QUESTIONS:
            self._questions.clear()
        self._questions[number, thought] = (subject, asked)
        return asked

    async def generate(
        self,
        subject: Any,
        generators: Sequence[Numbered],
        requests: Sequence[Request | None],
        occasion: int,
        hint: Hint,
    ) -> list[Candidate]:
        """What ``generators`` make of ``subject`` with the help of models, side by side."""
        jobs = [
            self._run_generator(number, generator, subject, request, occasion, hint)
            for (number, generator), request in zip(generators, requests, strict=True)
        ]
        if len(jobs) == 1:
            return await jobs[0]
        return [candidate for made in await gather_or_cancel(jobs) for candidate in made]

    async def _run_generator(
        self, number: int, generator: Generator, subject: Any, request: Request | None, occasion: int, hint: Hint
    ) -> list[Candidate]:
        if request is None and generator.takes != "nothing":
            return await self._run_async_generator(number, generator, subject, occasion, hint)
        if request is None:
            made = [self._candidate(state, number) for state in self._moves(generator, subject)]
        else:
            try:
                completions = await self._calls.caller.generate(generator.name, request)
            except BudgetExceededError as error:
                if not error.completions:
                    raise
                completions = error.completions
                self.is_out_of_budget = True
            parsed = run_function(
                generator,
                lambda: [(i, as_states(generator, r)) for i, r in generator.parse_each((subject,), completions)],
            )
            made = [
                self._candidate(state, number, request.first_sample + i, completions[i], request)
                for i, states in parsed
                for state in states
            ]
        self._begin_judging(made)
        return made

    async def _run_async_generator(
        self, number: int, generator: Generator, subject: Any, occasion: int, hint: Hint
    ) -> list[Candidate]:
        candidates: list[Candidate] = []
        handle = ModelHandle(self._calls, generator, occasion, hint)
        with noted_questions() as asked:
            async with aclosing(states_of(generator, subject, handle)) as states:
                async for state in states:
                    candidates.append(self._candidate(state, number, asked=tuple(asked)))
                    self._begin_judging(candidates[-1:])  # while the node still thinks of the next one
        return candidates

    def _moves(self, generator: Generator, subject: Any) -> list[Any]:
        return cast("list[Any]", run_function(generator, lambda: as_states(generator, generator.function(subject))))

    def _candidate(
        self,
        state: Any,
        generator: int,
        sample: int = 0,
        completion: Completion | None = None,
        request: Request | None = None,
        asked: Questions = (),
    ) -> Candidate:
        key = self.key(state)
        if self._graph.find(key) is not None:
            return Candidate(state, key, generator, sample, completion, request, [], True, False, asked)
        verdicts = apply_rules(self._program.rules, state)
        valid = not verdicts or verdicts[-1][1].valid
        is_goal = valid and self.is_goal(state)
        return Candidate(state, key, generator, sample, completion, request, verdicts, valid, is_goal, asked)

    def key(self, state: Any) -> Hashable:
        """What makes ``state`` the same as another."""
        try:
            return self._graph.key_of(state)
        except LLMProgError:
            raise
        except Exception as error:  # any error of a user's function: named and raised again
            raise DeclarationError(
                f"program {self._program.name!r}: no key for {state!r} ({type(error).__name__}: {error}); "
                "states must be hashable (a frozen dataclass is), or the program's key= must return something that is"
            ) from error

    def is_goal(self, state: Any) -> bool:
        """Whether ``state`` is what the program is after."""
        return self._goal is not None and bool(call_function("goal", self._goal, state))
