"""Any question, answered n times, and the best answer by a reward: a rule, or a model that judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from llmprog.errors import InputError
from llmprog.nodes import Checker, Verdict, checker
from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.chains import Asking, Chain, answer_of, parse_question, think
from llmprog.programs.judges import rubric_judge
from llmprog.programs.rewards import THINK_THEN_ANSWER, accuracy, equations, follows_format
from llmprog.search import BestOfN

Reward = Literal["judge", "accuracy", "format", "equations"]


def best_of_n(
    *,
    num_samples: int = 8,
    reward: Reward = "judge",
    gold: str | None = None,
    form: str | None = None,
    num_evaluations: int | None = None,
    stop_on_goal: bool | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer any question n times by chains of thought, and keep the answer of the highest reward.

    With a reward by rule the first chain that earns all of it solves the question; with a judge the best one is the
    answer. The input is a question, or an object with ``question`` and ``gold``.

    Args:
        num_samples: Chains allowed.
        reward: ``judge`` (a model gives 0 to 5 points by a rubric), ``accuracy`` (1 if the answer is the right one),
            ``format`` (1 if the reply has a form) or ``equations`` (the share of the chain's equations that hold).
        gold: The right answer, where the input does not say it (accuracy).
        form: The regular expression that a whole reply must match (format; default: a thought in ``<think>`` tags, then
            an answer).
        num_evaluations: Judgements of a chain, of which the mean counts (judge; default 3).
        stop_on_goal: End at the first chain that earns all of the reward (accuracy, format, equations; default true);
            false draws them all, as training by groups needs them.
        temperature: Of the chains; judgements are always sampled at 0.7.
        max_tokens: Longest chain and judgement, in the model's tokens; a chain that is cut there does not count.
        answer: What is read: ``text`` (what the chain states), ``number`` or ``choice`` (a letter) in it, ``regex``
            (the last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a chain, such as ``result.value`` (json; default answer).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question, reasoning and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt; none by default.
    """
    one_of("reward", reward, Reward)
    asking = Asking.of(
        "chain", answer=answer, pattern=pattern, path=path, examples=examples, num_examples=num_examples, system=system
    )
    right = for_method("gold", gold, reward, {"accuracy": ""}, chooser="reward")
    wanted_form = for_method("form", form, reward, {"format": THINK_THEN_ANSWER}, chooser="reward")
    evaluations = for_method("num_evaluations", num_evaluations, reward, {"judge": 3}, chooser="reward")
    by_rule = dict.fromkeys(("accuracy", "format", "equations"), True)
    stops = for_method("stop_on_goal", stop_on_goal, reward, by_rule, chooser="reward")

    judge: Checker = accuracy if reward == "accuracy" else equations
    if wanted_form is not None:
        judge = follows_format(wanted_form)
    elif evaluations is not None:
        judge = rubric_judge(question=_question, response=str, n=evaluations, temperature=0.7, max_tokens=max_tokens)
    return Program(
        name="best_of_n",
        start=_first_chain(right, needs_gold=reward == "accuracy"),
        generators=[think(asking, temperature=temperature, max_tokens=max_tokens)],
        checkers=[states_answer, judge],
        controller=BestOfN(num_samples=num_samples, stop_on_goal=stops is not False),
        goal=None if stops is None else _earns_all(judge),
        answer=answer_of,
        explain=_explain,
    )


@checker
def states_answer(state: Chain) -> bool | Verdict:
    """A chain without an answer is refused, however good it reads."""
    return state.answer is not None or Verdict(valid=False, reason="it states no answer")


def _first_chain(gold: str | None, *, needs_gold: bool) -> Callable[[str | Mapping[str, Any]], Chain]:
    def start(given: str | Mapping[str, Any]) -> Chain:
        if isinstance(given, str):
            question, right = given, gold
        else:
            question, own = given.get("question", ""), given.get("gold")
            right = gold if own is None else str(own)
        if needs_gold and not right:
            raise InputError(
                "best_of_n: reward=accuracy needs the right answer: give gold=..., or an input with question and gold"
            )
        return replace(parse_question(question, "best_of_n"), gold=right or None)

    return start


def _earns_all(rule: Checker) -> Callable[[Chain], bool]:
    def is_right(state: Chain) -> bool:
        return state.answer is not None and rule(state).score == 1

    return is_right


def _question(state: Chain) -> str:
    return state.question


def _explain(state: Chain) -> str:
    return (
        "no chain earned all of the reward, or none states an answer; the best of them, if there is one, is the "
        "answer; raise num_samples or max_tokens, or use a larger model"
    )
