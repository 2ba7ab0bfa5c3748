"""The plan_actions program: steps are proposed one at a time, and each is checked exactly before the next.

Schlag et al. 2023 (arXiv 2305.05364) have a model act in a world step by step within a program. Here the world is data
(``domain``), thoughts are situations, equal situations are one thought, and nothing is taken on a model's word: a step
whose conditions do not hold is refused, with the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmprog.nodes import Generator, Verdict, checker, generator
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.plan_actions.domain import Problem, Situation, parse_problem
from llmprog.search import BeamSearch, BreadthFirstSearch

Proposer = Literal["model", "rules"]

_MAX_EXPLAINED = 20_000  # situations looked at to say whether there is a plan


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan so far.

    Attributes:
        problem: What is to be reached, and by what.
        situation: What holds after the steps.
        steps: The steps.
        fault: Why the last step cannot be done; empty if it can.
    """

    problem: Problem
    situation: Situation
    steps: tuple[str, ...] = ()
    fault: str = ""

    @property
    def facts(self) -> str:
        """What holds, one fact a line."""
        return "\n".join(" ".join(fact) for fact in self.situation)

    @property
    def goal(self) -> str:
        """What has to hold in the end."""
        return ", ".join(" ".join(fact) for fact in self.problem.goal)

    @property
    def actions(self) -> str:
        """The actions, one a line."""
        return "\n".join(map(str, self.problem.actions))

    @property
    def done(self) -> str:
        """The steps so far, in words."""
        return ", ".join(self.steps) or "nothing"

    def __str__(self) -> str:
        return self.steps[-1] if self.steps else f"goal: {self.goal}"


_PROMPT = (
    "We plan actions, one step at a time. The actions, what each needs and what it does:\n{actions}\n\n"
    "What holds now:\n{facts}\n\nGoal: {goal}\nDone so far: {done}\n\n"
    "Which steps may come next? Write one per line: the action and its objects, nothing else. Best first.\n"
)


def read_steps(state: Plan, text: str) -> Iterator[Plan]:
    """The plans that a model's lines lead to, those that cannot be done with their fault; other text is passed over."""
    found = dict.fromkeys(state.problem.read_step(line) for line in text.splitlines()[:50])
    for step in found:
        if step is not None:
            fault = step.fault(state.situation)
            after = state.situation if fault else step.after(state.situation)
            yield Plan(state.problem, after, (*state.steps, str(step)), fault or "")


def _proposing(num_samples: int, temperature: float, max_tokens: int) -> Generator:
    @generator(prompt=_PROMPT, name="propose", n=num_samples, temperature=temperature, max_tokens=max_tokens)
    def propose(state: Plan, completion: str) -> Iterator[Plan]:
        return read_steps(state, completion)

    return propose


@generator(name="apply_rules")
def every_step(state: Plan) -> Iterator[Plan]:
    """Every step that can be done."""
    for step in state.problem.steps(state.situation):
        yield Plan(state.problem, step.after(state.situation), (*state.steps, str(step)))


@checker
def possible(state: Plan) -> Verdict:
    """Refuses a step whose conditions do not hold."""
    return Verdict(valid=not state.fault, reason=state.fault)


@checker
def progress(state: Plan) -> float:
    """The share of the goal that holds."""
    return 1 - len(state.problem.missing(state.situation)) / len(state.problem.goal)


def plan_actions(
    *,
    proposer: Proposer = "model",
    max_steps: int = 20,
    beam_width: int | None = None,
    num_samples: int | None = None,
    max_states: int | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Program:
    """Find a plan of actions whose every step is checked against what it needs and does.

    Args:
        proposer: Who proposes steps: the ``model``; or ``rules``, which try all, breadth-first, without a model.
        max_steps: Longest plan.
        beam_width: Situations kept per step (model; default 5).
        num_samples: Lists of steps drawn per situation (model; default 3).
        max_states: Situations looked at (rules; default 10000).
        temperature: Of the lists (model; default 0.7).
        max_tokens: Longest list, in the model's tokens (model; default 100).
    """
    one_of("proposer", proposer, Proposer)
    width = for_method("beam_width", beam_width, proposer, {"model": 5}, chooser="proposer")
    samples = for_method("num_samples", num_samples, proposer, {"model": 3}, chooser="proposer")
    states = for_method("max_states", max_states, proposer, {"rules": 10_000}, chooser="proposer")
    heat = for_method("temperature", temperature, proposer, {"model": 0.7}, chooser="proposer")
    longest = for_method("max_tokens", max_tokens, proposer, {"model": 100}, chooser="proposer")
    if width is not None and samples is not None and heat is not None and longest is not None:
        proposing = _proposing(samples, heat, longest)
        controller: BeamSearch | BreadthFirstSearch = BeamSearch(beam_width=width, max_depth=max_steps)
    else:
        proposing = every_step
        controller = BreadthFirstSearch(max_depth=max_steps, max_thoughts=states)
    return Program(
        name="plan_actions",
        start=_first,
        generators=[proposing],
        checkers=[possible, progress],
        controller=controller,
        goal=_is_reached,
        answer=_steps,
        key=_key,
        explain=_explain,
    )


def _first(given: object) -> Plan:
    problem = parse_problem(given)
    return Plan(problem, problem.start)


def _is_reached(state: Plan) -> bool:
    return not state.fault and not state.problem.missing(state.situation)


def _steps(state: Plan) -> str:
    return ", ".join(state.steps)


def _key(state: Plan) -> tuple[Situation, str]:
    """Situations merge; a refused step never stands for a situation that can be reached."""
    return state.situation, state.fault


def shortest_plan(problem: Problem, max_situations: int) -> list[str] | None:
    """The steps of a shortest plan, by exact search; ``None`` if there is none.

    Raises:
        LookupError: It is not settled after so many situations.
    """
    steps_to: dict[Situation, list[str]] = {problem.start: []}
    waiting = deque([problem.start])
    while waiting:
        situation = waiting.popleft()
        if not problem.missing(situation):
            return steps_to[situation]
        for step in problem.steps(situation):
            after = step.after(situation)
            if after not in steps_to:
                if len(steps_to) >= max_situations:
                    raise LookupError
                steps_to[after] = [*steps_to[situation], str(step)]
                waiting.append(after)
    return None


def _explain(state: Plan) -> str:
    try:
        plan = shortest_plan(state.problem, _MAX_EXPLAINED)
    except LookupError:
        return "no plan was found; whether there is one is not known: raise max_steps, or use a larger model"
    if plan is None:
        return "no plan was found, and an exact search shows that there is none"
    return (
        f"no plan was found; a shortest one has {len(plan)} steps (exact search): raise max_steps, or use another model"
    )
