"""The search runtime: asks the controller, runs what it wants, tells it what came of it.

Concurrency without losing repeatability: actions run side by side, but their results enter the graph, and
reach the controller, in the order in which they were dispatched. Checks do not wait for that: they start as
soon as the state they judge has been parsed.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from llmprog.accounting import Spending
from llmprog.compile import CompiledProgram
from llmprog.errors import BudgetExceededError, DeclarationError, LLMProgError, NodeError
from llmprog.events import (
    ControllerEvent,
    Event,
    RunFinished,
    SearchStarted,
    ThoughtChecked,
    ThoughtExpanded,
    ThoughtsCompared,
    ThoughtsPruned,
    VotesChanged,
)
from llmprog.nodes import Verdict
from llmprog.search.calls import Caller, Calls, derive_seed
from llmprog.search.controller import (
    Action,
    Compare,
    Controller,
    Expand,
    Merge,
    Prune,
    SearchContext,
    Stop,
    VoteResult,
)
from llmprog.search.expanding import Candidate, Expander
from llmprog.search.generating import named
from llmprog.search.judges import Judges
from llmprog.search.judging import call_function
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.templates import NO_HINT
from llmprog.types import Completion

_COMMITS_BETWEEN_YIELDS = 256
_BALLOTS_PER_REPORT = 50  # of a vote that has heard n samples, the next report comes after n / 50 more


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """How a search ended.

    Attributes:
        graph: Everything it found.
        thought: The solving thought, else the best so far; ``None`` if there is none.
        reached_goal: Whether ``thought`` satisfies the program's goal.
        stopped: ``goal``, ``exhausted``, ``budget``, ``interrupted``, or the controller's own reason (``max_depth``,
            ``num_samples`` …).
        votes: The vote, for controllers that hold one.
    """

    graph: ThoughtGraph
    thought: int | None
    reached_goal: bool
    stopped: str
    votes: VoteResult | None


class _Check(NamedTuple):
    thought: int


class _Pending(NamedTuple):
    """Work dispatched and not yet committed; ``work`` is its result if that was to be had at once."""

    action: Expand | Merge | Compare | _Check
    work: Any


class Search:
    """One run of a compiled program.

    Args:
        program: What to run.
        caller: Sends model calls to backends.
        seed: Fixes sampling and the controller's choices: with a backend that honours seeds, equal seeds
            give equal graphs.
        max_in_flight: Actions dispatched and not yet committed at any time.
        observe: Called with every event, in order; it must not block.
        spending: Limits the number of thoughts and the time; calls are limited where they are made.
        stop: Once set, the search asks for nothing more, takes in what is under way and ends.
    """

    def __init__(
        self,
        program: CompiledProgram,
        caller: Caller,
        *,
        seed: int,
        max_in_flight: int = 1024,
        observe: Callable[[Event], None] | None = None,
        spending: Spending | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        declared = program.program
        self.program = program
        self.calls = Calls(caller, seed)
        self.controller: Controller = cast("Controller", program.controller).fresh(
            SearchContext(
                rng=random.Random(derive_seed(seed, "controller")),
                answer=self.answer,
                has_comparers=bool(program.comparers),
            )
        )
        self.graph = ThoughtGraph(key=declared.key, step_cost=self.controller.step_cost)
        self.max_in_flight = max_in_flight
        self._observe = observe
        self._spending = spending
        self._stop = stop
        self._is_ending = False  # nothing new is begun any more
        self._out_of_budget = False
        self._generators = [(self.graph.add_generator(g.name), g) for g in program.generators]
        self._names = {number: generator.name for number, generator in self._generators}
        self._generators_of_one = [(i, g) for i, g in self._generators if not g.aggregates]
        self._generators_of_several = [(i, g) for i, g in self._generators if g.aggregates]
        self._pending: deque[_Pending] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._judges = Judges(program, self.calls, self._spawn)
        self._expander = Expander(program, self.calls, self.graph, self._start_judging)
        self._num_dispatched = 0
        self._goal_thought: int | None = None
        self._ballots_told = 0

    async def run(self, start: Any) -> SearchOutcome:
        """Search from the state ``start`` until the controller stops, a goal ends it or nothing is left to do."""
        deadline = None if self._spending is None else self._spending.deadline
        left_s = None if deadline is None else deadline - time.monotonic()
        limit = asyncio.timeout(left_s)
        try:
            async with limit:
                stopped = await self._loop(start)
        except TimeoutError:
            if not limit.expired() or self._spending is None:
                raise
            self._spending.out_of_time()
            stopped = "budget"
        finally:
            await self._cancel_rest()
        outcome = self.outcome(stopped)
        if self._observe is not None:
            if outcome.votes is not None:
                heard = self.controller.num_ballots or outcome.votes.num_samples
                self._observe(VotesChanged(outcome.votes, heard, graph=self.graph))
            self._observe(RunFinished(stopped, outcome.thought, graph=self.graph))
        return outcome

    def outcome(self, stopped: str) -> SearchOutcome:
        """What the search has come to, also where an error ended it."""
        thought = self._goal_thought
        try:
            if thought is None:
                thought = self.controller.best(self.graph)
            votes = self.controller.votes(self.graph)
        except LLMProgError:
            raise
        except Exception as error:  # as of ask
            raise self._controller_error("best or votes", error) from error
        return SearchOutcome(
            graph=self.graph,
            thought=thought,
            reached_goal=thought is not None and self._expander.is_goal(self.graph.states[thought]),
            stopped=stopped,
            votes=votes,
        )

    async def _loop(self, start: Any) -> str:
        graph, pending = self.graph, self._pending
        if self._spending is not None and not self._spending.take_thoughts(1):
            raise BudgetExceededError(f"the budget is spent: {self._spending.exhausted}; raise thoughts to go on")
        if self._begin(start):
            return "goal"
        commits = 0
        while True:
            for action in self._ask():
                if isinstance(action, Prune):
                    graph.prune(action.thought, action.reason)
                elif isinstance(action, Stop):
                    return action.reason
                else:
                    pending.append(_Pending(action, self._dispatch(action)))
            if not pending:
                return "exhausted"
            await self._take_in(pending.popleft())
            if self._goal_thought is not None:
                return "goal"
            is_out_of_budget = self._out_of_budget or self._expander.is_out_of_budget
            if is_out_of_budget or self._was_stopped():
                return await self._end("budget" if is_out_of_budget else "interrupted")
            commits += 1
            if commits % _COMMITS_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)  # a search without model calls must stay cancellable

    def _begin(self, start: Any) -> bool:
        """Enter the first state; returns whether it is a goal already."""
        self.graph.add(start, self._expander.key(start))
        is_goal = self._expander.is_goal(start)
        if is_goal:
            self.graph.mark_goal(0)
            self._goal_thought = 0
        if self._observe is not None:
            self._observe(SearchStarted(graph=self.graph))
        return is_goal

    def _ask(self) -> Sequence[Action]:
        """What the controller wants done next."""
        try:
            actions = self.controller.ask(self.graph, max(0, self.max_in_flight - len(self._pending)))
        except LLMProgError:
            raise
        except Exception as error:  # of a controller of one's own, or of a function that it was given
            raise self._controller_error("ask", error) from error
        if not isinstance(actions, Sequence):
            raise NodeError(self.controller.name, f"its ask returned {actions!r:.200}; allowed is a list of actions")
        self._report(actions)
        return actions

    def _report(self, actions: Sequence[Action]) -> None:
        """Tell whoever watches of what the controller has decided by itself: whom to prune, how the vote stands."""
        if self._observe is None:
            return
        prunes = [action for action in actions if isinstance(action, Prune)]
        if pruned := tuple((p.thought, p.reason) for p in prunes if self.graph.is_open(p.thought)):
            self._observe(ThoughtsPruned(pruned, graph=self.graph))
        ballots = self.controller.num_ballots
        if ballots > self._ballots_told + self._ballots_told // _BALLOTS_PER_REPORT:
            self._ballots_told = ballots
            votes = self.controller.votes(self.graph)
            if votes is not None:
                self._observe(VotesChanged(votes, ballots, graph=self.graph))

    def _was_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    async def _take_in(self, head: _Pending) -> None:
        """Wait for the work and let its result enter the graph."""
        result = head.work
        if isinstance(head.work, asyncio.Task):
            try:
                result = await head.work
            except BudgetExceededError:
                self._out_of_budget = True
                return
            finally:
                self._tasks.discard(head.work)
        self._commit(head.action, result)

    async def _end(self, reason: str) -> str:
        """Take in what is under way, since it is paid for, and begin nothing new."""
        self._is_ending = True
        while self._pending and self._goal_thought is None:
            await self._take_in(self._pending.popleft())
        return reason if self._goal_thought is None else "goal"

    async def _cancel_rest(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        return task

    # -- dispatch

    def _dispatch(self, action: Expand | Merge | Compare) -> Any:
        known = isinstance(action, Expand | Merge | Compare)
        thoughts = () if not known else (action.thought,) if isinstance(action, Expand) else action.thoughts
        if not known or not all(0 <= thought < len(self.graph) for thought in thoughts):
            raise NodeError(
                self.controller.name,
                f"its ask returned {action!r:.200}; allowed are actions for the thoughts 0 to {len(self.graph) - 1}",
            )
        self._num_dispatched += 1
        occasion = self._num_dispatched
        if isinstance(action, Compare):
            states = [self.graph.states[thought] for thought in action.thoughts]
            return self._spawn(self._judges.compare(states, occasion))
        if isinstance(action, Merge):
            subject: Any = tuple(self.graph.states[t] for t in action.thoughts)
            generators, hint, thought = self._generators_of_several, NO_HINT, -1
            if not generators:
                raise DeclarationError(
                    f"{self.controller.name} merges thoughts, but no generator of program {self.program.name!r} "
                    "aggregates; declare one with @generator(aggregates=True)"
                )
        else:
            subject = self.graph.states[action.thought]
            generators, hint, thought = self._generators_of_one, action.hint, action.thought
        generators = named(generators, action.generator, self.program.name)
        if all(generator.takes == "nothing" for _, generator in generators):
            return self._expander.made_by_moves(generators, subject)
        requests = self._expander.requests(generators, subject, thought, action.num_samples, hint)
        return self._spawn(self._expander.generate(subject, generators, requests, occasion, hint))

    # -- judging

    def _start_judging(self, made: Iterable[Candidate]) -> None:
        if not self._judges or self._is_ending or self._was_stopped():
            return
        for candidate in made:
            needless = not candidate.is_valid or (candidate.is_goal and self.controller.stop_on_goal)
            if not needless and self.graph.find(candidate.key) is None:
                self._judges.begin(candidate.state, candidate.key)

    # -- commit

    def _commit(self, action: Expand | Merge | Compare | _Check, result: Any) -> None:
        if isinstance(action, _Check):
            for judgement in result:
                self.graph.record_verdict(action.thought, judgement.checker, judgement.verdict)
            asked = tuple((judgement.checker, judgement.asked) for judgement in result if judgement.asked)
            self._tell(ThoughtChecked(action.thought, asked, graph=self.graph))
        elif isinstance(action, Compare):
            for comparison in result:
                for thought, score in zip(action.thoughts, comparison.scores, strict=True):
                    self.graph.record_verdict(thought, comparison.checker, Verdict(score=score))
            asked = tuple((comparison.checker, comparison.asked) for comparison in result if comparison.asked)
            self._tell(ThoughtsCompared(tuple(dict.fromkeys(action.thoughts)), asked, graph=self.graph))
        else:
            parents = action.thoughts if isinstance(action, Merge) else (action.thought,)
            self._commit_children(parents, action.tag, result)

    def _commit_children(self, parents: tuple[int, ...], tag: int, made: Sequence[Candidate]) -> None:
        graph = self.graph
        self._start_judging(made)  # those of plain Python moves; the others are under way
        children: list[int] = []
        is_new: list[bool] = []
        is_better: list[bool] = []
        completions: list[Completion | None] = []
        references: dict[int, int] = {}
        checks: list[tuple[int, Any]] = []
        for candidate in made:
            if self._spending is not None and graph.find(candidate.key) is None and not self._spending.take_thoughts(1):
                self._out_of_budget = True
                break
            completion = candidate.completion
            reference = -1
            if completion is not None:
                reference = references.get(id(completion), -1)
                if reference < 0:
                    reference = references[id(completion)] = graph.add_completion(completion)
            completions.append(completion)
            known = graph.find(candidate.key)
            way = () if known is None else graph.parents_of(known)
            thought, new = graph.add(
                candidate.state, candidate.key, parents, candidate.generator, candidate.sample, reference
            )
            children.append(thought)
            is_new.append(new)
            is_better.append(not new and graph.parents_of(thought) != way)
            if not new:
                continue
            for name, verdict in candidate.verdicts:
                graph.record_verdict(thought, name, verdict)
            if candidate.is_goal:
                graph.mark_goal(thought)
                if self.controller.stop_on_goal and self._goal_thought is None:
                    self._goal_thought = thought
            work = self._judges.work_on(candidate.state, candidate.key, is_ending=self._is_ending)
            checks.append((thought, work))
        made = made[: len(children)]
        asked = tuple(candidate.asked for candidate in made)
        event = ThoughtExpanded(
            parents=parents,
            children=tuple(children),
            is_new=tuple(is_new),
            samples=tuple(candidate.sample for candidate in made),
            completions=tuple(completions) if references else (),
            tag=tag,
            requests=tuple(candidate.request for candidate in made) if references else (),
            nodes=tuple(self._names[candidate.generator] for candidate in made),
            is_better=tuple(is_better),
            asked=asked if any(asked) else (),
            graph=graph,
        )
        self._tell(event)
        for thought, work in checks:
            if work is None:
                self._tell(ThoughtChecked(thought, graph=graph))
            else:
                self._pending.append(_Pending(_Check(thought), work))

    def _tell(self, event: ControllerEvent) -> None:
        try:
            self.controller.tell(event)
        except LLMProgError:
            raise
        except Exception as error:  # as of ask
            raise self._controller_error("tell", error) from error
        if self._observe is not None:
            self._observe(event)

    def _controller_error(self, method: str, error: Exception) -> NodeError:
        return NodeError(self.controller.name, f"its {method} raised {type(error).__name__}: {str(error)[:500]}")

    def answer(self, state: Any) -> Any:
        """What ``state`` is reported as."""
        answer = self.program.program.answer
        return state if answer is None else call_function("answer", answer, state)
