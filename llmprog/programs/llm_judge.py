"""A model as a judge of replies: points by a rubric, averaged over samples, or two by two in both orders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmprog.errors import InputError
from llmprog.nodes import Generator, generator
from llmprog.program import Program
from llmprog.programs.catalog import one_of
from llmprog.programs.judges import MOST_POINTS, mean_grade, pairwise_judge, rubric_prompt
from llmprog.search import BeamSearch

Method = Literal["rubric", "pairwise"]

_MAX_TEXT = 100_000


@dataclass(frozen=True, slots=True)
class Judged:
    """A question with replies to it, and what the judge says.

    Attributes:
        question: What was asked.
        responses: The replies.
        place: Which of them this is about, from 0; -1 where it is about all.
        points: Its points of five, the mean over samples; ``None`` where there are none.
        reason: What the points are the mean of, or why there are none.
    """

    question: str
    responses: tuple[str, ...]
    place: int = -1
    points: float | None = None
    reason: str = ""

    @property
    def response(self) -> str:
        """The reply that this is about."""
        return self.responses[self.place]

    def __str__(self) -> str:
        if self.place < 0:
            return self.question
        if not self.reason:
            return self.response
        points = "no grade" if self.points is None else f"{self.points:.2f} of {MOST_POINTS} points"
        return f"{points} ({self.reason})"


def llm_judge(
    *,
    method: Method = "rubric",
    num_samples: int = 3,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Judge replies to a question by a model: points by a rubric, or the best of several by comparisons.

    The input is an object, or its JSON: ``question``, and ``response`` (rubric) or ``responses`` (pairwise).

    Args:
        method: ``rubric``: 0 to 5 points, of which each is for something in particular, averaged over samples (the
            self-rewarding rubric's scale: Yuan et al. 2024). ``pairwise``: every two replies are compared in both
            orders, so that a judge who prefers a place prefers nobody; the answer is the best reply.
        num_samples: Judgements of a reply, or of a pair in each order.
        temperature: Of the judgements; an average needs them to differ.
        max_tokens: Longest judgement, in the model's tokens.
    """
    one_of("method", method, Method)
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    if method == "rubric":
        return Program(
            name="llm_judge",
            start=_one_reply,
            generators=[_graded(num_samples, sampling)],
            controller=BeamSearch(beam_width=1, max_depth=1),
            answer=_points,
            explain=_explain,
        )
    return Program(
        name="llm_judge",
        start=_several_replies,
        generators=[candidates],
        checkers=[pairwise_judge(question=_question, response=_response, n=num_samples, **sampling)],
        controller=BeamSearch(beam_width=1, max_depth=1),
        answer=_response,
    )


def _graded(num_samples: int, sampling: Mapping[str, Any]) -> Generator:
    @generator(prompt=_ask_for_points, name="judge", n=num_samples, **sampling)
    def judge(state: Judged, completions: list[str]) -> Judged:
        points, reason = mean_grade(completions)
        return replace(state, points=points, reason=reason)

    return judge


def _ask_for_points(state: Judged) -> str:
    return rubric_prompt(state.question, state.response)


@generator
def candidates(state: Judged) -> Iterator[Judged]:
    """Each reply, to be compared with the others."""
    for place in range(len(state.responses)):
        yield replace(state, place=place)


def parse_replies(given: str | Mapping[str, Any]) -> Judged:
    """A question with the replies to be judged, from an object or its JSON.

    Raises:
        InputError: It is none, or lacks the question or the replies.
    """
    value: Any = given
    if isinstance(given, str):
        try:
            value = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise InputError(f"llm_judge: {given[:60]!r} is no JSON ({error}); {_FORM}") from error
    if not isinstance(value, Mapping) or not isinstance(value.get("question"), str) or not value["question"].strip():
        raise InputError(f"llm_judge: {value!r:.80} has no question; {_FORM}")
    responses = value.get("responses", [value["response"]] if "response" in value else [])
    if not isinstance(responses, list | tuple) or not all(isinstance(text, str) for text in responses) or not responses:
        raise InputError(f"llm_judge: the replies are {responses!r:.80}; {_FORM}")
    if any(len(text) > _MAX_TEXT for text in (value["question"], *responses)):
        raise InputError(f"llm_judge: a text of over {_MAX_TEXT} characters; shorten it")
    return Judged(value["question"].strip(), tuple(responses))


_FORM = (
    'allowed is an object such as {"question": "How many legs has a dog?", "response": "Four."}, or "responses" with a '
    "list of texts"
)


def _one_reply(given: str | Mapping[str, Any]) -> Judged:
    judged = parse_replies(given)
    if len(judged.responses) != 1:
        raise InputError(f"llm_judge: method=rubric judges one reply, not {len(judged.responses)}; use method=pairwise")
    return replace(judged, place=0)


def _several_replies(given: str | Mapping[str, Any]) -> Judged:
    judged = parse_replies(given)
    if len(judged.responses) < 2:
        raise InputError("llm_judge: method=pairwise compares two replies or more; use method=rubric for one")
    return judged


def _points(state: Judged) -> float | None:
    return state.points


def _question(state: Judged) -> str:
    return state.question


def _response(state: Judged) -> str:
    return state.response


def _explain(state: Judged) -> str:
    return "no judgement ended with a line 'Score: …'; raise num_samples or max_tokens, or use a larger model"
