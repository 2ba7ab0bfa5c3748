"""Running generators: the question each is asked, and from what its function returns to states."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from llmprog.errors import DeclarationError, LLMProgError, NodeError
from llmprog.nodes import Generator
from llmprog.search.calls import ModelHandle
from llmprog.search.judging import node_error, run_function
from llmprog.templates import Hint, prompt_for_state, prompt_for_vote
from llmprog.types import Prompt, Template

_RECORD_MARKS = ("__dataclass_fields__", "model_fields", "_fields")  # of dataclasses, pydantic models, named tuples

Numbered = tuple[int, Generator]


def named(generators: list[Numbered], name: str | None, program: str) -> list[Numbered]:
    """The generator of this name, of those that can be used here; all of them without a name."""
    chosen = generators if name is None else [(number, node) for number, node in generators if node.name == name]
    if not chosen:
        known = ", ".join(node.name for _, node in generators) or "none"
        raise DeclarationError(f"program {program!r} has no generator {name!r} to use here; there are: {known}")
    return chosen


def question(generator: Generator, subject: Any, hint: Hint) -> Prompt | Template:
    """What a generator with a prompt is asked: of one state, or of the tuple of states that it aggregates."""
    source = generator.prompt or ""
    made: Prompt | Template = run_function(
        generator,
        lambda: prompt_for_vote(source, subject) if generator.aggregates else prompt_for_state(source, subject, hint),
    )
    return made


async def states_of(generator: Generator, subject: Any, handle: ModelHandle) -> AsyncGenerator[Any, None]:
    """The states that an async node makes of ``subject``, each as soon as the node gives it.

    Raises:
        NodeError: The node's function raised, or returned something else.
    """
    try:
        made = generator.function(subject, handle)
        if inspect.isasyncgen(made):
            async with contextlib.aclosing(made):
                async for state in made:
                    yield state
        else:
            for state in as_states(generator, await made):
                yield state
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise node_error(generator, error) from error


def as_states(generator: Generator, made: Any) -> list[Any]:
    """What a generator's function returned, as a list of states.

    Raises:
        NodeError: It is neither an iterable of states, nor one state, nor ``None``.
    """
    if made is None:
        return []
    if isinstance(made, str) or any(hasattr(made, mark) for mark in _RECORD_MARKS):
        return [made]  # a single state: iterating it would take it apart
    if not isinstance(made, Iterable):
        raise NodeError(generator.name, f"returned {made!r}; allowed are an iterable of states, one state or None")
    return list(made)
