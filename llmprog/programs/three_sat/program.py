"""The three_sat program: variables are set step by step, clauses are the rules, dead ends are found exactly.

Long 2023 (arXiv 2305.08291) names 3-SAT as the second problem of the Tree-of-Thought puzzle solver; its public code has
a stub in its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator, Verdict, checker, generator
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.line_of_thought import line_of_thought
from llmprog.programs.three_sat.formula import (
    MAX_VARIABLES,
    Formula,
    dead_end,
    false_clause,
    is_satisfied,
    parse_formula,
    propagate,
    satisfy,
)
from llmprog.search import BestOfN, Controller

Method = Literal["one_shot", "best_of_n", "tot"]
DeadEnds = Literal["none", "propagation", "search"]

_MAX_REPLY = 20_000  # of a longer reply the end is read
_SEARCHED_NODES = 2_000


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which variables are set, and how.

    Attributes:
        formula: What must hold.
        literals: What is set, by variable: 3 says that variable 3 is true, -3 that it is false.
        written: What the model wrote, where that cannot be taken.
        fault: Why it cannot; empty where it was taken.
    """

    formula: Formula
    literals: tuple[int, ...] = ()
    written: str = ""
    fault: str = ""

    @property
    def clauses(self) -> str:
        """The clauses that are still open, one per line."""
        true = set(self.literals)
        still_open = [clause for clause in self.formula.clauses if not any(literal in true for literal in clause)]
        return "\n".join(" ".join(map(str, clause)) for clause in still_open)

    @property
    def so_far(self) -> str:
        """What is set, in words."""
        return " ".join(map(str, self.literals)) or "nothing yet"

    @property
    def not_set(self) -> str:
        """The variables that are not set."""
        known = {abs(literal) for literal in self.literals}
        return " ".join(str(v) for v in range(1, self.formula.num_variables + 1) if v not in known)

    def __str__(self) -> str:
        return self.written or " ".join(map(str, self.literals)) or "nothing set"


_RULES = (
    "Every clause below must hold. A clause holds if at least one of its literals does: 3 says that variable 3 is "
    "true, -3 that it is false.\n\n"
)
_WHOLE_PROMPT = (
    _RULES + "Clauses:\n{clauses}\n\nVariables: {not_set}\n"
    "Give a value to every variable: on the last line one literal for each, such as 1 -2 3, and nothing else.\n"
    "Literals:\n"
)
_STEP_PROMPT = (
    _RULES + "We set the variables together, a few at a time.\n\n"
    "Set so far: {so_far}\nOpen clauses:\n{clauses}\n\nVariables that are not set: {not_set}\n"
    "Set one or a few of them: on the last line the new literals, such as 4 -7, and nothing else.\n{hint}\nLiterals:\n"
)

_NAMED = re.compile(r"\b(?:x|variable)?[\s_]*([0-9]{1,6})\s*(?:=|:|:=|is|->|→)\s*(true|false|[tf01])\b", re.IGNORECASE)
_HEAD = re.compile(r"\s*(?:[-*]\s+)?(?:v\s+|[a-z ]{1,30}:)?", re.IGNORECASE)
_LITERAL = re.compile(r"([-−~¬!])?x?_?([0-9]{1,6})")


def read_literals(text: str) -> list[int]:
    """The literals that a text states, in its order: ``x3 = false`` anywhere, else its last line of literals alone.

    ``-3``, ``not x3``, ``¬3`` and ``~3`` are the same; zeros, which end lists in DIMACS form, are left out.
    """
    text = text[-_MAX_REPLY:]
    named = [(int(v), value.lower() in ("true", "t", "1")) for v, value in _NAMED.findall(text)]
    if named:
        return [variable if value else -variable for variable, value in named if variable]
    for line in reversed(text.splitlines()):
        words = re.split(r"[\s,;]+", _HEAD.sub("", line.lower().replace("not ", "-"), count=1).strip(" .[](){}`*"))
        found = [_LITERAL.fullmatch(word) for word in words]
        if all(found):
            signs = [(match[1], int(match[2])) for match in found if match]
            return [-variable if sign else variable for sign, variable in signs if variable]
    return []


def set_some(state: Assignment, completion: str, num_variables: int | None) -> Assignment:
    """The assignment with the first ``num_variables`` new literals that a completion states; ``None``: with all.

    A satisfying assignment is taken whole.
    """
    stated = read_literals(completion)
    written = " ".join(map(str, stated))[:2_000]
    fault = _fault_of(state, stated)
    new = [literal for literal in dict.fromkeys(stated) if literal not in state.literals]
    if not fault and not new:
        fault = "no variable was set" if stated else "the reply states no literal"
    if not fault:
        is_solution = is_satisfied(state.formula, (*state.literals, *new))
        taken = new if num_variables is None or is_solution else new[:num_variables]
        literals = tuple(sorted((*state.literals, *taken), key=abs))
        clause = false_clause(state.formula, literals)
        if clause is None:
            return Assignment(state.formula, literals)
        fault = f"clause {clause} ({' '.join(map(str, state.formula.clauses[clause - 1]))}) is false"
    return Assignment(state.formula, state.literals, written, fault)


def _fault_of(state: Assignment, stated: Sequence[int]) -> str:
    """What is wrong with literals before any clause is looked at."""
    known = set(state.literals)
    for literal in stated:
        if abs(literal) > state.formula.num_variables:
            return f"there is no variable {abs(literal)}; they are 1 to {state.formula.num_variables}"
        if -literal in state.literals:
            return f"variable {abs(literal)} is already {'true' if -literal > 0 else 'false'}"
        if -literal in known:
            return f"variable {abs(literal)} is set to true and to false"
        known.add(literal)
    return ""


@generator(prompt=_WHOLE_PROMPT, name="solve")
def set_all(state: Assignment, completion: str) -> Assignment:
    """The assignment that a completion states."""
    return set_some(state, completion, None)


def set_few(num_variables: int) -> Generator:
    """A generator of assignments with at most ``num_variables`` more variables set."""

    @generator(prompt=_STEP_PROMPT, name="set_few")
    def step(state: Assignment, completion: str) -> Assignment:
        return set_some(state, completion, num_variables)

    return step


@checker
def legal(state: Assignment) -> Verdict:
    """The rules refuse false clauses, and replies that cannot be taken."""
    return Verdict(valid=not state.fault, reason=state.fault)


@checker(name="can_be_satisfied")
def follows(state: Assignment) -> Verdict:
    """Unit propagation refuses assignments from which a false clause follows."""
    _, conflict = propagate(state.formula, state.literals)
    reason = "" if conflict is None else f"what follows from it makes clause {conflict} false"
    return Verdict(valid=conflict is None, reason=reason)


@checker
def can_be_satisfied(state: Assignment) -> Verdict:
    """An exact search refuses assignments that nothing completes."""
    why = dead_end(state.formula, state.literals, max_nodes=_SEARCHED_NODES)
    return Verdict(valid=not why, reason=why)


def thought_key(state: Assignment) -> str:
    """Equal assignments are one thought; what cannot be taken never stands for a good one."""
    return f"{state}: {state.fault}" if state.fault else str(state)


def three_sat(
    *,
    method: Method = "tot",
    num_samples: int | None = None,
    variables_per_step: int | None = None,
    dead_ends: DeadEnds | None = None,
    max_rounds: int | None = None,
    max_visits: int | None = None,
    policy: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Set variables to true or false so that every clause of at most three literals holds.

    Args:
        method: ``one_shot`` (all variables at once), ``best_of_n`` (the first of many assignments that satisfies every
            clause) or ``tot`` (a few variables at a time, going back where it must).
        num_samples: Assignments drawn (best_of_n; default 20).
        variables_per_step: Most variables that one step sets (tot; default 3).
        dead_ends: How assignments that make no clause false but cannot be completed are found (tot; default search):
            ``none``, ``propagation`` (of unit clauses) or ``search`` (all, within limits).
        max_rounds: Steps tried (tot; default 100).
        max_visits: Steps tried from an assignment before going back by two (tot; default 5).
        policy: A file that ``llmprog train-policy`` wrote: it decides when to go back, instead of rules (tot).
        temperature: Of everything that is drawn.
        max_tokens: Longest reply, in the model's tokens.
    """
    one_of("method", method, Method)
    samples = for_method("num_samples", num_samples, method, {"best_of_n": 20})
    variables = for_method("variables_per_step", variables_per_step, method, {"tot": 3})
    ends = for_method("dead_ends", dead_ends, method, {"tot": "search"})
    rounds = for_method("max_rounds", max_rounds, method, {"tot": 100})
    for_method("max_visits", max_visits, method, {"tot": 5})
    for_method("policy", policy, method, {"tot": ""})
    if variables is not None and variables < 1:
        raise OptionError(f"variables_per_step={variables}; allowed is a whole number >= 1")
    node: Generator = set_all
    checkers: list[Checker] = [legal]
    controller: Controller = BestOfN(num_samples=1 if samples is None else samples)
    if variables is not None and rounds is not None:
        node = set_few(variables)
        rules: dict[str, list[Checker]] = {"none": [], "propagation": [follows], "search": [can_be_satisfied]}
        checkers += rules[str(one_of("dead_ends", ends, DeadEnds))]
        controller = line_of_thought(MAX_VARIABLES, rounds, max_visits=max_visits, policy=policy)
    return Program(
        name="three_sat",
        start=_first_state,
        generators=[node.with_options(temperature=temperature, max_tokens=max_tokens)],
        checkers=checkers,
        controller=controller,
        goal=_is_solved,
        answer=_literals,
        key=thought_key,
        explain=_explain,
    )


def _first_state(text: str) -> Assignment:
    return Assignment(parse_formula(text))


def _is_solved(state: Assignment) -> bool:
    return not state.fault and is_satisfied(state.formula, state.literals)


def _literals(state: Assignment) -> str:
    return " ".join(map(str, state.literals))


def _explain(state: Assignment) -> str:
    """Whether the formula can be satisfied at all, by exact search."""
    answer = satisfy(state.formula)
    if not answer.is_certain:
        return "no assignment was found; whether there is one is not known: an exact search came to its limit"
    if answer.literals is None:
        return "the formula is unsatisfiable: every assignment makes a clause false, as an exact search has shown"
    return "no assignment was found, but the formula is satisfiable: try more samples or more rounds"
