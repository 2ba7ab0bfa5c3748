"""Models as judges: a rubric of points, a comparison of two replies, a grade on a scale; and how verdicts are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmprog.nodes import Checker, Verdict, checker
from llmprog.parsers import last_line, rating

MOST_POINTS = 5
_OUT_OF = re.compile(
    r"(?<![\d.])(\d{1,2}(?:\.\d{1,3})?)\s*(?:/|out of|of)\s*(?:a possible\s+)?\d{1,2}\b", re.IGNORECASE
)
_PREFERENCES = {"A": 1.0, "B": 0.0, "tie": 0.5}

_RUBRIC = """Judge the reply to a question. It can earn five points, one for each of these that is true of it:
1. It is about what was asked and holds something of use, be it incomplete.
2. It deals with most of the question, if not all of it.
3. It answers the question in its essentials, so that the asker is served.
4. It is written for the asker: direct, complete, well ordered, without anything beside the point.
5. It could not be bettered: it knows its subject, and not a word is wrong or idle.

Question: {question}

Reply: {response}

Go through the points in a few words. Then add up those that it earned and end with the line
Score: <0 to 5>
"""
_PAIRWISE = """Two replies to one question are compared. Which serves the asker better? Neither their order nor their
length says anything about that.

Question: {question}

Reply A: {first}

Reply B: {second}

Give your reasons in a few words, then end with one of the lines
Verdict: A
Verdict: B
Verdict: tie
"""


def rubric_prompt(question: str, response: str) -> str:
    """What a judge is asked for the points of a reply: an additive scale, as in Yuan et al. 2024 (arXiv 2401.10020)."""
    return _RUBRIC.format(question=question, response=response)


def pairwise_prompt(question: str, first: str, second: str) -> str:
    """What a judge is asked about two replies."""
    return _PAIRWISE.format(question=question, first=first, second=second)


def grade_of(completion: str, *, lowest: float = 0.0, highest: float = MOST_POINTS) -> float | None:
    """The grade on the last line of a judgement, ``4`` of ``Score: 4``, ``4/5`` and ``4 out of 5``; ``None`` for none.

    One that is off the scale is none.
    """
    line = last_line(completion)
    if found := _OUT_OF.findall(line):
        value = float(found[-1])
        return value if lowest <= value <= highest else None
    return rating(completion, lowest=lowest, highest=highest)


def stated_verdict(completion: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that a judgement states last after ``Verdict:``, or alone on its last line, in any case.

    ``None`` where it states none of them.
    """
    known = {word.casefold(): word for word in words}
    names = "|".join(map(re.escape, known))
    called = r"(?:(?:the\s+)?(?:response|reply|option)\s+)?"
    found = re.findall(
        rf"\bverdict\b[\s:=*_`>-]{{1,20}}{called}[\s*_`\"'\[(]{{0,9}}({names})\b", completion, re.IGNORECASE
    )
    if not found:
        found = re.findall(rf"^\W*{called}({names})\W*$", last_line(completion), re.IGNORECASE)
    return known[found[-1].casefold()] if found else None


def preference_of(completion: str) -> float | None:
    """How far a comparison prefers A: 1, 0 for B, 0.5 for a tie; ``None`` where it gives no verdict."""
    verdict = stated_verdict(completion, _PREFERENCES)
    return None if verdict is None else _PREFERENCES[verdict]


def mean_grade(
    completions: Sequence[str], *, lowest: float = 0.0, highest: float = MOST_POINTS
) -> tuple[float | None, str]:
    """The mean of the grades that judgements give, ``None`` where none gives one, and what it is the mean of."""
    grades = [grade_of(completion, lowest=lowest, highest=highest) for completion in completions]
    known = [grade for grade in grades if grade is not None]
    if not known:
        return None, f"none of {len(grades)} judgements gives a grade"
    return sum(known) / len(known), f"mean of {len(known)} of {len(grades)} judgements"


def rubric_judge(
    *, question: Callable[[Any], str], response: Callable[[Any], str], n: int = 3, name: str = "judge", **sampling: Any
) -> Checker:
    """A checker that has a model give 0 to 5 points by a rubric; the score is the mean of ``n`` samples.

    Args:
        question: The question, from a state.
        response: The reply, from a state.
        n: Judgements per state.
        name: As for ``checker``.
        **sampling: As for ``checker``.
    """

    def ask(state: Any) -> str:
        return rubric_prompt(question(state), response(state))

    @checker(prompt=ask, n=n, name=name, **sampling)
    def judge(state: Any, completions: list[str]) -> Verdict:
        grade, reason = mean_grade(completions)
        return Verdict(score=grade or 0.0, reason=reason)

    return judge


def pairwise_judge(
    *, question: Callable[[Any], str], response: Callable[[Any], str], n: int = 1, name: str = "judge", **sampling: Any
) -> Checker:
    """A checker that has a model compare replies two by two, each pair in both orders, which cancels position bias.

    A judgement without a verdict counts as a tie. Arguments as for ``rubric_judge``.
    """

    def ask(first: Any, second: Any) -> str:
        return pairwise_prompt(question(first), response(first), response(second))

    @checker(prompt=ask, n=n, name=name, kind="pairwise", **sampling)
    def judge(first: Any, second: Any, completion: str) -> float:
        preference = preference_of(completion)
        return 0.5 if preference is None else preference

    return judge
