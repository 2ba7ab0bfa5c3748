"""Running checkers: from what their functions return to verdicts and scores."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmprog.errors import LLMProgError, NodeError
from llmprog.nodes import Checker, Node, Verdict
from llmprog.search.calls import Calls, ModelHandle
from llmprog.tasks import gather_or_cancel
from llmprog.templates import prompt_for_pair, prompt_for_state, prompt_for_vote

_NUMBER: Any = (float, int, numbers.Real)  # the last so that numpy's scalars are numbers too

VALID = Verdict()
INVALID = Verdict(valid=False)


def run_function(node: Node, function: Callable[[], Any]) -> Any:
    """Call a node's function; what it raises comes out as a ``NodeError`` that names the node."""
    try:
        return function()
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise node_error(node, error) from error


def call_function(part: str, function: Callable[[Any], Any], state: Any) -> Any:
    """What a function of a program makes of a state.

    Raises:
        NodeError: It raised an error of its own; the message names ``part`` and the state.
    """
    try:
        return function(state)
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise NodeError(part, f"raised {type(error).__name__}: {error} for the state {state!r}") from error


def node_error(node: Node, error: Exception) -> NodeError:
    """The error of a node whose function raised ``error``."""
    return NodeError(node.name, f"its function raised {type(error).__name__}: {str(error)[:500]}")


def as_verdict(node: Node, value: Any) -> Verdict:
    """What a checker returned, as a ``Verdict``.

    Raises:
        NodeError: It is neither bool, number nor ``Verdict``, or not finite.
    """
    if value is True:
        return VALID
    if value is False:
        return INVALID
    if isinstance(value, Verdict):
        verdict = value
    elif isinstance(value, _NUMBER):
        verdict = Verdict(score=_as_float(value))
    else:
        raise NodeError(node.name, f"returned {value!r}; allowed are bool, a number or a Verdict")
    if not math.isfinite(_as_float(verdict.score)):
        raise NodeError(node.name, f"returned the score {verdict.score!r}; allowed are finite numbers")
    return verdict


def _as_float(value: Any) -> float:
    """``value`` as a float; what has none is not finite."""
    try:
        return float(value) if isinstance(value, _NUMBER) else math.nan
    except OverflowError:
        return math.inf


def apply_rules(rules: Sequence[Checker], state: Any) -> list[tuple[str, Verdict]]:
    """Verdicts of the rules in order, ending with the first that refuses.

    A plain ``True`` says nothing beyond the thought's being valid and is left out.
    """
    verdicts: list[tuple[str, Verdict]] = []
    for rule in rules:
        try:
            value = rule.function(state)
        except LLMProgError:
            raise
        except Exception as error:  # any error of a user's function: named and raised again
            raise node_error(rule, error) from error
        verdict = as_verdict(rule, value)
        if verdict is not VALID:
            verdicts.append((rule.name, verdict))
        if not verdict.valid:
            break
    return verdicts


async def judge_state(calls: Calls, judge: Checker, state: Any, occasion: object) -> Verdict:
    """One model-backed checker's verdict on one state."""
    if judge.takes == "model":
        return as_verdict(judge, await _run_async(calls, judge, (state,), occasion))
    prompt = run_function(judge, lambda: prompt_for_state(judge.prompt or "", state))
    completions = await calls.judge(judge, prompt)
    parsed = run_function(judge, lambda: judge.parse_each((state,), completions))
    return mean_verdict([as_verdict(judge, value) for _, value in parsed])


def mean_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The mean score of several verdicts; valid if at least half are; the first reason given."""
    if not verdicts:
        return VALID
    if len(verdicts) == 1:
        return verdicts[0]
    return Verdict(
        valid=2 * sum(v.valid for v in verdicts) >= len(verdicts),
        score=math.fsum(v.score for v in verdicts) / len(verdicts),
        reason=next((v.reason for v in verdicts if v.reason), ""),
    )


async def compare_states(calls: Calls, comparer: Checker, states: Sequence[Any], occasion: object) -> list[float]:
    """One score per state from a vote or from all pairwise comparisons."""
    if comparer.kind == "vote":
        return await _vote(calls, comparer, tuple(states), occasion)
    scores = [0.0] * len(states)
    pairs = [(i, j) for i in range(len(states)) for j in range(len(states)) if i != j]
    results = await gather_or_cancel(_prefer(calls, comparer, states[i], states[j], (occasion, i, j)) for i, j in pairs)
    for (i, j), preference in zip(pairs, results, strict=True):
        scores[i] += preference
        scores[j] += 1.0 - preference
    return scores


async def _vote(calls: Calls, comparer: Checker, states: tuple[Any, ...], occasion: object) -> list[float]:
    if comparer.takes == "model":
        return _scores(comparer, await _run_async(calls, comparer, (states,), occasion), len(states))
    if comparer.takes == "nothing":
        return _scores(comparer, run_function(comparer, lambda: comparer.function(states)), len(states))
    prompt = run_function(comparer, lambda: prompt_for_vote(comparer.prompt or "", states))
    completions = await calls.judge(comparer, prompt)
    parsed = run_function(comparer, lambda: comparer.parse_each((states,), completions))
    if comparer.takes == "completions":
        return _scores(comparer, parsed[0][1], len(states))
    scores = [0.0] * len(states)
    for _, choice in parsed:
        # A choice off the menu abstains: it is the model's fault, not the program's.
        if isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice < len(states):
            scores[choice] += 1.0
    return scores


async def _prefer(calls: Calls, comparer: Checker, first: Any, second: Any, occasion: object) -> float:
    if comparer.takes == "model":
        values: Iterable[Any] = [await _run_async(calls, comparer, (first, second), occasion)]
    elif comparer.takes == "nothing":
        values = [run_function(comparer, lambda: comparer.function(first, second))]
    else:
        prompt = run_function(comparer, lambda: prompt_for_pair(comparer.prompt or "", first, second))
        completions = await calls.judge(comparer, prompt)
        values = [v for _, v in run_function(comparer, lambda: comparer.parse_each((first, second), completions))]
    numbers = [float(v) if isinstance(v, int | float) else math.nan for v in values]
    if not numbers or not all(0.0 <= number <= 1.0 for number in numbers):
        raise NodeError(comparer.name, f"returned {list(values)!r}; allowed are bool or numbers in [0, 1]")
    return math.fsum(numbers) / len(numbers)


def _scores(comparer: Checker, value: Any, wanted: int) -> list[float]:
    scores = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if (
        scores is None
        or len(scores) != wanted
        or not all(isinstance(s, int | float) and math.isfinite(s) for s in scores)
    ):
        raise NodeError(comparer.name, f"returned {value!r}; allowed is one finite score for each of {wanted} states")
    return [float(s) for s in scores]


async def _run_async(calls: Calls, node: Node, subjects: tuple[Any, ...], occasion: object) -> Any:
    try:
        return await node.function(*subjects, ModelHandle(calls, node, occasion))
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise node_error(node, error) from error
