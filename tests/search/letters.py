"""A program on texts: each grows by a letter, and is judged by its length."""

from __future__ import annotations

from llmprog import checker, generator


@generator(prompt="expand {state}")
def expand(state: str, completion: str):
    return completion.split()


@checker(prompt="judge {state}")
def judge(state: str, completion: str) -> float:
    return float(len(completion))


def tree(text, sample):
    """Three children below any state; judgements are as long as the state."""
    task, _, state = text.partition(" ")
    return " ".join(state + letter for letter in "abc") if task == "expand" else state
