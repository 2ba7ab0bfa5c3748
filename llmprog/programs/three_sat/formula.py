"""Formulas in conjunctive normal form with at most three literals per clause, and what is exactly true of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmprog.errors import InputError

MAX_VARIABLES = 100
MAX_CLAUSES = 1_000
MAX_NODES = 20_000
"""Assignments that a search looks at unless told otherwise."""

_MAX_TEXT = 100_000


@dataclass(frozen=True, slots=True)
class Formula:
    """Clauses that must all hold.

    Attributes:
        num_variables: Variables are 1 to this.
        clauses: Each holds if one of its literals does: 3 says that variable 3 is true, -3 that it is false.
    """

    num_variables: int
    clauses: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return "\n".join(" ".join(map(str, clause)) for clause in self.clauses)


def parse_formula(text: str) -> Formula:
    """A formula in DIMACS form, or one clause per line or between slashes, such as ``1 -2 3 / -1 2``.

    Raises:
        InputError: It is neither, a clause has no or more than three literals, or the formula is too large.
    """
    text = str(text)
    if len(text) > _MAX_TEXT:
        raise InputError(f"three_sat: a formula of {len(text)} characters; allowed are {_MAX_TEXT}")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.match(r"c(\s|$)", line)]
    declared = None
    if lines and (header := re.fullmatch(r"p\s+cnf\s+([0-9]{1,6})\s+([0-9]{1,6})", lines[0])):
        declared = int(header[1])
        words = " ".join(lines[1:]).partition("%")[0].split()  # what some files end with
        ended = " ".join("/" if word == "0" else word for word in words)
        parts = ended.removesuffix("/").split("/")
    else:
        parts = re.split(r"/|\n", "\n".join(lines))
        parts = [re.sub(r"\s0$", "", part.strip()) for part in parts]
    clauses = tuple(_clause(part, number) for number, part in enumerate(parts, 1))
    largest = max((abs(literal) for clause in clauses for literal in clause), default=0)
    num_variables = largest if declared is None else declared
    if largest > num_variables:
        raise InputError(f"three_sat: a clause uses variable {largest}, but the formula declares {num_variables}")
    if num_variables > MAX_VARIABLES or len(clauses) > MAX_CLAUSES:
        raise InputError(
            f"three_sat: {num_variables} variables and {len(clauses)} clauses; "
            f"allowed are {MAX_VARIABLES} and {MAX_CLAUSES}"
        )
    return Formula(num_variables, clauses)


def _clause(text: str, number: int) -> tuple[int, ...]:
    words = text.replace(",", " ").split()
    strange = next((word for word in words if not re.fullmatch(r"-?[1-9][0-9]{0,5}", word)), None)
    if strange is not None or not 1 <= len(words) <= 3:
        problem = f"{strange[:40]!r} is no literal" if strange is not None else f"it has {len(words)} literals"
        raise InputError(
            f"three_sat: clause {number}: {problem}; a clause is one to three literals such as 1 -2 3, on a line of "
            "its own or between slashes; DIMACS files (p cnf …) are read too"
        )
    return tuple(dict.fromkeys(map(int, words)))


def is_satisfied(formula: Formula, literals: Iterable[int]) -> bool:
    """Whether every clause has a true literal; variables that are not set do not matter then."""
    true = set(literals)
    return all(any(literal in true for literal in clause) for clause in formula.clauses)


def false_clause(formula: Formula, literals: Iterable[int]) -> int | None:
    """The number, from 1, of the first clause all of whose literals are false; ``None`` if there is none."""
    true = set(literals)
    for number, clause in enumerate(formula.clauses, 1):
        if all(-literal in true for literal in clause):
            return number
    return None


# ------------------------------------------------------------------------------------------ exact answers


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exact search found out.

    Attributes:
        literals: A satisfying assignment, as literals by variable; ``None`` where none was found.
        is_certain: Whether that is the truth; ``False`` where the search came to its limit.
    """

    literals: tuple[int, ...] | None
    is_certain: bool


def propagate(formula: Formula, literals: Iterable[int]) -> tuple[set[int], int | None]:
    """Unit propagation: ``literals`` with all that follow, and the number of a clause that cannot hold any more.

    A clause with all literals but one false makes that one true.
    """
    true = set(literals)
    has_changed = True
    while has_changed:
        has_changed = False
        for number, clause in enumerate(formula.clauses, 1):
            if any(literal in true for literal in clause):
                continue
            left = [literal for literal in clause if -literal not in true]
            if not left:
                return true, number
            if len(left) == 1:
                true.add(left[0])
                has_changed = True
    return true, None


def satisfy(formula: Formula, literals: Iterable[int] = (), *, max_nodes: int = MAX_NODES) -> Answer:
    """An assignment that keeps ``literals`` and satisfies the formula (Davis, Putnam, Logemann, Loveland).

    Args:
        formula: What must hold.
        literals: What is set already.
        max_nodes: Assignments looked at before giving up.
    """
    stack: list[set[int]] = [set(literals)]
    num_nodes = 0
    while stack:
        if num_nodes >= max_nodes:
            return Answer(None, is_certain=False)
        num_nodes += 1
        true, conflict = propagate(formula, stack.pop())
        if conflict is not None:
            continue
        literal = _most_wanted(formula, true)
        if literal is None:
            return Answer(tuple(sorted(true, key=abs)), is_certain=True)
        stack += [true | {-literal}, true | {literal}]
    return Answer(None, is_certain=True)


def _most_wanted(formula: Formula, true: set[int]) -> int | None:
    """The literal in most of the open clauses, the smallest variable of several; ``None`` if no clause is open."""
    counts: dict[int, int] = {}
    for clause in formula.clauses:
        if not any(literal in true for literal in clause):
            for literal in clause:
                if -literal not in true:
                    counts[literal] = counts.get(literal, 0) + 1
    return min(counts, key=lambda literal: (-counts[literal], abs(literal), -literal), default=None)


def dead_end(formula: Formula, literals: Sequence[int], *, max_nodes: int = MAX_NODES) -> str:
    """Why no way to set the other variables satisfies the formula; empty if one does, or if that was not found out."""
    _, conflict = propagate(formula, literals)
    if conflict is not None:
        clause = " ".join(map(str, formula.clauses[conflict - 1]))
        return f"what follows from it makes clause {conflict} ({clause}) false"
    answer = satisfy(formula, literals, max_nodes=max_nodes)
    if answer.literals is None and answer.is_certain:
        return "no way to set the other variables is left: every one was tried"
    return ""


def random_formula(num_variables: int, num_clauses: int, rng: random.Random) -> Formula:
    """Clauses of three different variables each, all equally likely; it need not be satisfiable.

    Equal states of ``rng`` give equal formulas. Around 4.26 clauses per variable is where half of large ones are.

    Args:
        num_variables: 3 at least.
        num_clauses: How many are drawn; two may be equal.
        rng: Draws them.
    """
    clauses = []
    for _ in range(num_clauses):
        variables = rng.sample(range(1, num_variables + 1), 3)
        clauses.append(tuple(variable * rng.choice((1, -1)) for variable in variables))
    return Formula(num_variables, tuple(clauses))
