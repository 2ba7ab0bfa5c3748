"""What the tasks of Graph of Thoughts have in common: problems that are split, solved in parts and merged again.

Besta et al. 2023 (arXiv 2308.09687), sections 5 and 7: a model is asked for the answer at once (io), after reasoning
(cot), again and again with the best improved (tot), or for parts that are merged (got). What is wrong with an answer is
counted exactly, by rules, so every thought has its number of errors as its score.

Deviations: the parts are merged in a tree whose height is decided by how many of them there are and have survived, and
improving ends at the first answer without an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator, Verdict, checker, generator
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.search import (
    Aggregate,
    BeamSearch,
    BestOfN,
    Controller,
    Decide,
    Generate,
    GraphOfThoughts,
    KeepBest,
    Operation,
    OperationGraph,
    Refine,
    Thought,
)

Method = Literal["io", "cot", "tot", "got"]

_MOST_LEVELS = 64  # of a tree that merges pairs: more parts than fit into memory
_MAX_WRITTEN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a problem on the way to its answer. A program's own state adds what is given, and the answer.

    Attributes:
        answer: The answer to it; ``None`` before there is one.
        parts: Which parts of the problem it covers, counted from 0.
        num_parts: How many there are.
        written: What the model wrote, where no answer can be read from it.
        fault: Why it cannot; empty where it can.
    """

    answer: Any = None
    parts: tuple[int, ...] = (0,)
    num_parts: int = 1
    written: str = ""
    fault: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether no part of the problem is missing."""
        return len(self.parts) == self.num_parts

    def which(self) -> str:
        """Which parts it covers, in words; empty for the whole."""
        shown = " ".join(str(part + 1) for part in self.parts)
        return "" if self.is_whole else f" (part {shown} of {self.num_parts})"


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that can be split: how it is asked, read, measured and put together again.

    Attributes:
        name: The program's name.
        items: The field of its states that is split; a tuple.
        part_size: How many of these a part holds by default.
        ask: The prompt for the answer to a part; for a better one, where there is one already.
        ask_to_reason: The prompt for an answer after reasoning.
        ask_to_merge: The prompt for the answer to two parts, from theirs.
        names: Of the generators that ask so, in this order.
        read: The answer that a reply holds; ``None`` where it holds none.
        what: What a reply should hold, for messages.
        num_errors: Of a state that has an answer.
    """

    name: str
    items: str
    part_size: int
    ask: Callable[[Any], str]
    ask_to_reason: Callable[[Any], str]
    ask_to_merge: Callable[[Any], str]
    names: tuple[str, str, str]
    read: Callable[[str], Any]
    what: str
    num_errors: Callable[[Any], int]

    def answered(self, state: Part, completion: str) -> Part:
        """``state`` with the answer that a completion holds."""
        return answered(state, completion, self.read(completion), self.what)


def parts_of(state: Part) -> tuple[int, ...]:
    """Which parts of the problem a state covers."""
    return state.parts


def until_one_is_left(thoughts: tuple[Thought, ...]) -> str | None:
    """Another level of merges while there is more than one part."""
    return "level" if len(thoughts) > 1 else None


def operations(task: Task, num_samples: int, max_tries: int) -> OperationGraph:
    """Split, solve the parts, keep the best answer to each, improve it where it has errors, and merge in pairs.

    Args:
        task: Whose generators are asked.
        num_samples: Answers drawn for each part, and for each merge.
        max_tries: Improvements of an answer at most; 0 does without.
    """
    answer, _, merge = task.names

    def improved() -> dict[str, Operation]:
        return {"improve": Refine(generator=answer, max_tries=max_tries, threshold=0.0)} if max_tries else {}

    level = OperationGraph(
        {
            "pairs": Aggregate(generator=merge, size=2, num_samples=num_samples),
            "best": KeepBest(per=parts_of),
            **improved(),
        }
    )
    return OperationGraph(
        {
            "split": Generate(generator="split"),
            "solve": Generate(generator=answer, num_samples=num_samples),
            "best": KeepBest(per=parts_of),
            **improved(),
            "merge": Decide(choose=until_one_is_left, plans={"level": level}, max_rounds=_MOST_LEVELS),
        }
    )


def divide_and_merge(
    task: Task,
    *,
    start: Callable[[str], Part],
    method: Method,
    num_samples: int | None,
    part_size: int | None,
    max_depth: int | None,
    max_tries: int | None,
    temperature: float,
    max_tokens: int,
) -> Program:
    """The program of a task: its nodes under the controller of a method.

    Args:
        task: Which.
        start: The first state, from the input.
        method: ``io``, ``cot``, ``tot`` or ``got``.
        num_samples: Answers drawn each time; the method's own default.
        part_size: Of got: most items in a part; the task's own default.
        max_depth: Of tot: levels.
        max_tries: Of got: improvements.
        temperature: Of everything that is drawn.
        max_tokens: Longest reply.

    Raises:
        OptionError: A parameter has a value that is not allowed, or that the method would ignore.
    """
    one_of("method", method, Method)
    samples = num_samples if num_samples is not None else {"io": 1, "cot": 1, "tot": 10, "got": 5}[method]
    size = for_method("part_size", part_size, method, {"got": task.part_size})
    depth = for_method("max_depth", max_depth, method, {"tot": 3})
    tries = for_method("max_tries", max_tries, method, {"got": 3})
    if size is not None and size < 1:
        raise OptionError(f"part_size={size}; allowed is a whole number >= 1")
    if tries is not None and tries < 0:
        raise OptionError(f"max_tries={tries}; allowed is a whole number >= 0")

    answer, reason, merge = (
        node.with_options(temperature=temperature, max_tokens=max_tokens) for node in asking_nodes(task)
    )
    used: list[Generator] = [reason if method == "cot" else answer]
    controller: Controller = BestOfN(num_samples=samples)
    if depth is not None:
        used = [answer.with_options(n=samples)]
        controller = BeamSearch(beam_width=1, max_depth=depth)
    elif size is not None and tries is not None:
        used = [split_into_parts_of(size, task), answer, merge]
        controller = GraphOfThoughts(operations=operations(task, samples, tries), stop_on_goal=True)
    return Program(
        name=task.name,
        start=start,
        generators=used,
        checkers=[error_counter(task)],
        controller=controller,
        goal=lambda state: state.is_whole and state.answer is not None and not task.num_errors(state),
        answer=_answer,
        explain=_explain,
    )


def _answer(state: Part) -> str | None:
    return None if state.answer is None else str(state)


def _explain(state: Part) -> str:
    return (
        "no answer without an error was found; the answer is the one with the fewest, and a thought's score is minus "
        "the number of its errors; raise num_samples or max_tokens, or use a larger model"
    )


# ---------------------------------------------------------------------------------------------------- nodes


def asking_nodes(task: Task) -> tuple[Generator, Generator, Generator]:
    """The generators that ask for an answer, for one after reasoning, and for that of two parts."""
    name, reasoning, merging = task.names

    def answer(state: Part, completion: str) -> Part:
        return task.answered(state, completion)

    def merge(states: tuple[Part, ...], completion: str) -> Part:
        return task.answered(joined(states, task.items), completion)

    return (
        generator(prompt=task.ask, name=name)(answer),
        generator(prompt=task.ask_to_reason, name=reasoning)(answer),
        generator(prompt=task.ask_to_merge, name=merging, aggregates=True)(merge),
    )


def split_into_parts_of(size: int, task: Task) -> Generator:
    """A generator of parts with at most ``size`` items, as equal as they can be."""

    @generator
    def split(state: Part) -> Iterator[Part]:
        items = getattr(state, task.items)
        count = num_parts_for(len(items), size)
        for i, piece in enumerate(even_pieces(items, count)):
            changed: dict[str, Any] = {task.items: tuple(piece)}
            yield replace(state, parts=(i,), num_parts=count, **changed)

    return split


def error_counter(task: Task) -> Checker:
    """A rule: a reply without an answer is refused, an answer is worth minus the number of its errors."""

    @checker
    def errors(state: Part) -> Verdict:
        if state.fault:
            return Verdict(valid=False, reason=state.fault)
        if state.answer is None:
            return Verdict()
        found = task.num_errors(state)
        return Verdict(score=-float(found), reason=f"{found} error{'s' * (found != 1)}" if found else "")

    return errors


def num_parts_for(length: int, size: int) -> int:
    """How many parts of at most ``size`` there are, 1 at least."""
    return max(1, -(-length // size))


def even_pieces(items: Sequence[Any], num_pieces: int) -> Iterator[Sequence[Any]]:
    """``items`` in as many pieces, in order, whose lengths differ by one at most."""
    bounds = [len(items) * i // num_pieces for i in range(num_pieces + 1)]
    return (items[low:high] for low, high in itertools.pairwise(bounds))


def joined(states: Sequence[P], items: str) -> P:
    """The parts of several states as one, without an answer yet; ``items`` is the field that was split."""
    parts = tuple(part for state in states for part in state.parts)
    changed: dict[str, Any] = {items: tuple(item for state in states for item in getattr(state, items))}
    return replace(states[0], answer=None, parts=parts, **changed)


def answered(state: P, completion: str, answer: Any, what: str) -> P:
    """``state`` with the answer that was read from a completion; one that holds none is kept with its fault.

    Args:
        state: What was asked about.
        completion: The reply.
        answer: What was read; ``None`` if nothing was.
        what: What the reply should have held, for the fault.
    """
    if answer is None:
        return replace(state, answer=None, written=completion[:_MAX_WRITTEN], fault=f"the reply holds no {what}")
    return replace(state, answer=answer, written="", fault="")
