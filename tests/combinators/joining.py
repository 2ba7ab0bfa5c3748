"""Small programs to join: each asks a scripted model one question that begins with its name."""

from __future__ import annotations

from llmprog import Program, generator
from llmprog.backends import ScriptedBackend
from llmprog.search import BestOfN, BreadthFirstSearch


def asking(name, **options):
    """A program that asks ``NAME INPUT`` once and answers with the reply; an empty reply is no solution."""

    @generator(prompt=f"{name} {{state}}", name="say")
    def say(state: str, completion: str) -> list[str]:
        return [completion] if completion else []

    return Program(generators=[say], controller=BestOfN(num_samples=1), name=name, **options)


def stepping(name, goal=None, max_depth=3):
    """A search of several calls: each step appends a letter of the reply to the state."""

    @generator(prompt=f"{name} {{state}}", n=2, name="step")
    def step(state: str, completion: str) -> list[str]:
        return [state + completion]

    return Program(generators=[step], controller=BreadthFirstSearch(max_depth=max_depth), goal=goal, name=name)


def counting(function=lambda n: n + 1, name="count"):
    """A search in plain Python, of one step."""

    @generator(name="go")
    def go(state: int) -> list[int]:
        return [function(state)]

    return Program(generators=[go], controller=BestOfN(num_samples=1), name=name)


def word(text, sample):
    """A reply that depends on the question alone: ``(NAME INPUT)`` in short."""
    name, _, given = text.partition(" ")
    return f"{name[0]}({given})"


def letters(text, sample):
    return "ab"[sample % 2]


def scripted(reply=word, **options):
    return ScriptedBackend(reply, **options)


def texts(result):
    """All that a run came to which must not depend on timing."""
    return (
        result.answer,
        result.solved,
        result.stopped,
        result.explanation,
        result.votes,
        result.usage,
        result.graph.to_json(),
        {label: texts(part) for label, part in result.parts.items()},
    )
