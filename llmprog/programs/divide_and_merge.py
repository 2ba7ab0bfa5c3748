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
from llmprog.nodes import Checker, Generator, Verdict
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
class Nodes:
    """The nodes of a task.

    Attributes:
        answer: The answer to a part; where it has one already, a better one.
        reason: The answer after reasoning.
        split: From the number of parts wanted, a generator of parts.
        merge: Of parts with answers, one with the answer to both.
        errors: A rule: minus the number of errors, as ``verdict_on`` gives it.
    """

    answer: Generator
    reason: Generator
    split: Callable[[int], Generator]
    merge: Generator
    errors: Checker


def parts_of(state: Part) -> tuple[int, ...]:
    """Which parts of the problem a state covers."""
    return state.parts


def until_one_is_left(thoughts: tuple[Thought, ...]) -> str | None:
    """Another level of merges while there is more than one part."""
    return "level" if len(thoughts) > 1 else None


def operations(nodes: Nodes, num_samples: int, max_tries: int) -> OperationGraph:
    """Split, solve the parts, keep the best answer to each, improve it where it has errors, and merge in pairs.

    Args:
        nodes: The task's.
        num_samples: Answers drawn for each part, and for each merge.
        max_tries: Improvements of an answer at most; 0 does without.
    """

    def improved() -> dict[str, Operation]:
        refine = Refine(generator=nodes.answer.name, max_tries=max(1, max_tries), threshold=0.0)
        return {"improve": refine} if max_tries else {}

    level = OperationGraph(
        {
            "pairs": Aggregate(generator=nodes.merge.name, size=2, num_samples=num_samples),
            "best": KeepBest(per=parts_of),
            **improved(),
        }
    )
    return OperationGraph(
        {
            "split": Generate(generator="split"),
            "solve": Generate(generator=nodes.answer.name, num_samples=num_samples),
            "best": KeepBest(per=parts_of),
            **improved(),
            "merge": Decide(choose=until_one_is_left, plans={"level": level}, max_rounds=_MOST_LEVELS),
        }
    )


def divide_and_merge(
    name: str,
    nodes: Nodes,
    *,
    start: Callable[[str], Part],
    goal: Callable[[Any], bool],
    answer: Callable[[Any], str | None],
    method: Method,
    num_samples: int | None,
    part_size: int | None,
    default_part_size: int,
    max_depth: int | None,
    max_tries: int | None,
    temperature: float,
    max_tokens: int,
) -> Program:
    """The program of a task: its nodes under the controller of a method.

    Args:
        name: The program's.
        nodes: The task's.
        start: The first state, from the input.
        goal: Whether a state answers the whole without an error.
        answer: A state's answer as text.
        method: ``io``, ``cot``, ``tot`` or ``got``.
        num_samples: Answers drawn each time; the method's own default.
        part_size: Of got: how much of the problem a part holds.
        default_part_size: The same where none is given.
        max_depth: Of tot: levels.
        max_tries: Of got: improvements.
        temperature: Of everything that is drawn.
        max_tokens: Longest reply.

    Raises:
        OptionError: A parameter has a value that is not allowed, or that the method would ignore.
    """
    one_of("method", method, Method)
    samples = num_samples if num_samples is not None else {"io": 1, "cot": 1, "tot": 10, "got": 5}[method]
    size = for_method("part_size", part_size, method, {"got": default_part_size})
    depth = for_method("max_depth", max_depth, method, {"tot": 3})
    tries = for_method("max_tries", max_tries, method, {"got": 3})
    if size is not None and size < 1:
        raise OptionError(f"part_size={size}; allowed is a whole number >= 1")
    if tries is not None and tries < 0:
        raise OptionError(f"max_tries={tries}; allowed is a whole number >= 0")

    used = [nodes.reason if method == "cot" else nodes.answer]
    controller: Controller = BestOfN(num_samples=samples)
    if depth is not None:
        used = [nodes.answer.with_options(n=samples)]
        controller = BeamSearch(beam_width=1, max_depth=depth)
    elif size is not None and tries is not None:
        used += [nodes.merge]
        controller = GraphOfThoughts(operations=operations(nodes, samples, tries), stop_on_goal=True)
    asking = [node.with_options(temperature=temperature, max_tokens=max_tokens) for node in used]
    return Program(
        name=name,
        start=start,
        generators=asking if size is None else [nodes.split(size), *asking],
        checkers=[nodes.errors],
        controller=controller,
        goal=goal,
        answer=answer,
        explain=_explain,
    )


def _explain(state: Part) -> str:
    return (
        "no answer without an error was found; the answer is the one with the fewest, and a thought's score is minus "
        "the number of its errors; raise num_samples or max_tokens, or use a larger model"
    )


# ------------------------------------------------------------------------------------------------ for nodes


def num_parts_for(length: int, size: int) -> int:
    """How many parts of at most ``size`` there are, 1 at least."""
    return max(1, -(-length // size))


def even_pieces(items: Sequence[Any], num_pieces: int) -> Iterator[Sequence[Any]]:
    """``items`` in as many pieces, in order, whose lengths differ by one at most."""
    bounds = [len(items) * i // num_pieces for i in range(num_pieces + 1)]
    return (items[low:high] for low, high in itertools.pairwise(bounds))


def joined(states: Sequence[P], **given: Any) -> P:
    """The parts of several states as one, without an answer yet; ``given`` is what a program's own state adds."""
    return replace(states[0], answer=None, parts=tuple(part for state in states for part in state.parts), **given)


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


def verdict_on(state: Part, num_errors: int | None) -> Verdict:
    """What a task's rule says: a reply without an answer is refused, an answer is worth minus its errors.

    Args:
        state: What is judged.
        num_errors: Of its answer; ``None`` where it has none yet.
    """
    if state.fault:
        return Verdict(valid=False, reason=state.fault)
    if not num_errors:
        return Verdict()
    return Verdict(score=-float(num_errors), reason=f"{num_errors} error{'s' * (num_errors != 1)}")
