"""Domains of actions as data, in the manner of STRIPS (Fikes and Nilsson 1971): what each needs, adds and deletes.

A fact is a few words, such as ``on a b``. A fact that is not stated does not hold. An action may be taken where all
that it ``needs`` holds (and what it needs as ``not …`` does not); then what it ``deletes`` ends, and what it ``adds``
begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import permutations
from typing import Any, TypeAlias

from llmprog.documents import read_values
from llmprog.errors import InputError, SpecError

Fact: TypeAlias = tuple[str, ...]
Situation: TypeAlias = tuple[Fact, ...]
"""The facts that hold, sorted: equal situations are equal values, in every process."""

_MAX_INPUT = 100_000
_MAX_PARAMETERS = 4
_WORD = re.compile(r"[a-z0-9_-]{1,40}")
_WORDS = re.compile(r"[A-Za-z0-9_-]+")

_FORM = (
    "a problem is an object with 'domain' (blocks, errands, or an object with 'actions'), 'start' and 'goal', lists of "
    "facts such as 'on a b'; or the name of one that comes with the program"
)


@dataclass(frozen=True, slots=True)
class Action:
    """What may be done: a name, its parameters, and facts over them.

    Attributes:
        name: One word.
        parameters: Their names; each stands for an object, different ones for different objects.
        needs: What has to hold.
        forbids: What must not.
        adds: What holds afterwards.
        deletes: What does not hold any more.
    """

    name: str
    parameters: tuple[str, ...] = ()
    needs: tuple[Fact, ...] = ()
    forbids: tuple[Fact, ...] = ()
    adds: tuple[Fact, ...] = ()
    deletes: tuple[Fact, ...] = ()

    def __str__(self) -> str:
        needs = [*map(" ".join, self.needs), *("not " + " ".join(fact) for fact in self.forbids)]
        does = [*map(" ".join, self.adds), *("not " + " ".join(fact) for fact in self.deletes)]
        return f"{' '.join((self.name, *self.parameters))}: needs {', '.join(needs)}; then {', '.join(does)}"


@dataclass(frozen=True, slots=True)
class Step:
    """An action on objects."""

    action: Action
    objects: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.action.name, *self.objects))

    def _given(self, facts: Sequence[Fact]) -> list[Fact]:
        objects = dict(zip(self.action.parameters, self.objects, strict=True))
        return [tuple(objects.get(word, word) for word in fact) for fact in facts]

    def fault(self, situation: Situation) -> str | None:
        """Why it cannot be done there, or ``None``."""
        for fact in self._given(self.action.needs):
            if fact not in situation:
                return f"{self}: '{' '.join(fact)}' does not hold"
        for fact in self._given(self.action.forbids):
            if fact in situation:
                return f"{self}: '{' '.join(fact)}' holds, and must not"
        return None

    def after(self, situation: Situation) -> Situation:
        """What holds once it is done; what it both deletes and adds holds."""
        left = set(situation) - set(self._given(self.action.deletes))
        return tuple(sorted(left | set(self._given(self.action.adds))))


@dataclass(frozen=True, slots=True)
class Problem:
    """Where one starts, what has to hold in the end, and the actions there are."""

    actions: tuple[Action, ...]
    start: Situation
    goal: tuple[Fact, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects: every word of a fact of the start or the goal but its first."""
        return tuple(sorted({word for fact in (*self.start, *self.goal) for word in fact[1:]}))

    def steps(self, situation: Situation) -> Iterator[Step]:
        """All steps that can be done, by the order of actions and objects."""
        for action in self.actions:
            for objects in permutations(self.objects, len(action.parameters)):
                step = Step(action, objects)
                if step.fault(situation) is None:
                    yield step

    def read_step(self, text: str) -> Step | None:
        """The step that a line of text names, in any case and punctuation; ``None`` where it names none.

        What is before the action's name is passed over (a number, say), and so are words that are no objects.
        """
        words = [word.lower() for word in _WORDS.findall(text[:200])]
        known = {action.name: action for action in self.actions}
        for place, word in enumerate(words):
            action = known.get(word)
            if action is not None:
                number = len(action.parameters)
                objects = tuple(word for word in words[place + 1 :] if word in self.objects)[:number]
                return Step(action, objects) if len(set(objects)) == number else None
        return None

    def missing(self, situation: Situation) -> tuple[Fact, ...]:
        """The facts of the goal that do not hold."""
        return tuple(fact for fact in self.goal if fact not in situation)


@cache
def bundled() -> Mapping[str, Problem]:
    """The problems that come with the program, by name."""
    data = _data()
    return {name: _problem(entry) for name, entry in data["problems"].items()}


@cache
def _data() -> Any:
    text = resources.files(__package__ or __name__).joinpath("domains.yaml").read_text(encoding="utf-8")
    return read_values(text, "domains.yaml")


def parse_problem(given: Any) -> Problem:
    """A problem by name, as YAML or JSON text, or as a mapping.

    Raises:
        InputError: It is none; the message says what is wrong.
    """
    if isinstance(given, Problem):
        return given
    if isinstance(given, str):
        if given.strip() in bundled():
            return bundled()[given.strip()]
        if len(given) > _MAX_INPUT:
            raise InputError(f"plan_actions: a problem of {len(given)} characters; allowed are {_MAX_INPUT}")
        try:
            given = read_values(given, "problem")
        except SpecError as error:
            raise InputError(f"plan_actions: the text cannot be read: {'; '.join(error.faults)}; {_FORM}") from error
    return _problem(given)


def _problem(given: Any) -> Problem:
    if not isinstance(given, Mapping):
        raise InputError(f"plan_actions: {_shown(given)} is no problem; known are {', '.join(bundled())}; {_FORM}")
    unknown = set(given) - {"domain", "start", "goal"}
    if unknown:
        raise InputError(f"plan_actions: unknown {', '.join(map(repr, sorted(map(str, unknown))))}; {_FORM}")
    start = tuple(sorted(set(_facts("start", given.get("start")))))
    goal = tuple(_facts("goal", given.get("goal")))
    if not goal:
        raise InputError(f"plan_actions: the goal is empty; {_FORM}")
    return Problem(tuple(_actions(given.get("domain"))), start, goal)


def _actions(domain: Any) -> Iterator[Action]:
    if isinstance(domain, str) and domain in _data()["domains"]:
        domain = _data()["domains"][domain]
    actions = domain.get("actions") if isinstance(domain, Mapping) else None
    if not isinstance(actions, Mapping) or not actions:
        raise InputError(f"plan_actions: domain {_shown(domain)} has no actions; {_FORM}")
    for name, entry in actions.items():
        if not isinstance(name, str) or not _WORD.fullmatch(name):
            raise InputError(f"plan_actions: action {_shown(name)}; a name is one word of letters, digits, - and _")
        yield _action(name, entry)


def _action(name: str, entry: Any) -> Action:
    known = ("parameters", "needs", "adds", "deletes")
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise InputError(
            f"plan_actions: action {name!r} is {_shown(entry)}; allowed is an object with {', '.join(known)}"
        )
    parameters = entry.get("parameters") or []
    is_list = isinstance(parameters, list) and all(isinstance(p, str) and _WORD.fullmatch(p) for p in parameters)
    if not is_list or len(parameters) > _MAX_PARAMETERS or len(set(parameters)) < len(parameters):
        raise InputError(
            f"plan_actions: action {name!r}: parameters {_shown(parameters)}; allowed are up to {_MAX_PARAMETERS} "
            "different words"
        )
    needed = list(_facts(f"{name}: needs", entry.get("needs"), may_be_negative=True))
    return Action(
        name,
        tuple(parameters),
        needs=tuple(fact for fact in needed if fact[0] != "not"),
        forbids=tuple(fact[1:] for fact in needed if fact[0] == "not"),
        adds=tuple(_facts(f"{name}: adds", entry.get("adds"))),
        deletes=tuple(_facts(f"{name}: deletes", entry.get("deletes"))),
    )


def _facts(what: str, entries: Any, *, may_be_negative: bool = False) -> Iterator[Fact]:
    if not isinstance(entries, list | None):
        raise InputError(f"plan_actions: {what} is {_shown(entries)}; allowed is a list of facts such as 'on a b'")
    for entry in entries or ():
        words = tuple(entry.split()) if isinstance(entry, str) else ()
        bare = words[1:] if may_be_negative and words[:1] == ("not",) else words
        if not bare or bare[0] == "not" or not all(_WORD.fullmatch(word) for word in bare):
            raise InputError(
                f"plan_actions: {what}: {_shown(entry)} is no fact; allowed are words of lower-case letters, digits, - "
                "and _, such as 'on a b'" + (", and 'not' before them" if may_be_negative else "")
            )
        yield words


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
