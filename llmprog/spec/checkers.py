"""Checkers of program files: rules about fields, and judgements of a model that are read by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from llmprog.errors import OptionError
from llmprog.nodes import Checker, CheckerKind, Verdict, checker
from llmprog.parsers import choice, last_word, rating, value_of_words
from llmprog.spec.nodes import NO_FIELDS, NodeForm
from llmprog.spec.outside import Outside
from llmprog.spec.prompts import About
from llmprog.spec.reading import Number, OneOf, Part, Scope, Text
from llmprog.spec.rules import RuleForm
from llmprog.spec.states import FieldType


class Judgement(Part):
    """What judgements have in common: a thought of which the score is too low is refused."""

    refuse_below: Number | None = Field(None, description="Lowest score that is not refused; none is by default.")

    def score(self, completions: Sequence[str]) -> float:
        """What the completions are worth together."""
        raise NotImplementedError

    def verdict(self, completions: Sequence[str]) -> Verdict:
        """The verdict on a thought."""
        score = self.score(completions)
        if self.refuse_below is not None and score < self.refuse_below:
            return Verdict(valid=False, score=score, reason=f"judged {score:g}, below {self.refuse_below:g}")
        return Verdict(score=score)


class Words(Judgement):
    """The sum over samples of what the word is worth that each ends with (Yao et al. 2023)."""

    values: dict[Text, Number] = Field(min_length=1, description="What each word is worth.")
    otherwise: Number = Field(0.0, description="What a completion is worth that ends with none of them.")

    def score(self, completions: Sequence[str]) -> float:
        return value_of_words(completions, self.values, otherwise=self.otherwise)


class Rating(Judgement):
    """The mean over samples of the number that each ends with; what is off the scale does not count."""

    lowest: Number = 1.0
    highest: Number = 10.0
    otherwise: Number | None = Field(None, description="The score where no sample has a number; the lowest by default.")

    def score(self, completions: Sequence[str]) -> float:
        found = [rating(text, lowest=self.lowest, highest=self.highest) for text in completions]
        numbers = [number for number in found if number is not None]
        if numbers:
            return sum(numbers) / len(numbers)
        return self.lowest if self.otherwise is None else self.otherwise


class YesOrNo(Judgement):
    """The share of samples that end with yes, of those that end with yes or no; less than half refuses."""

    refuse_below: Number | None = 0.5
    otherwise: Number = Field(0.0, description="The score where no sample ends with either.")

    def score(self, completions: Sequence[str]) -> float:
        said = [word for text in completions if (word := last_word(text, ("yes", "no"))) is not None]
        return said.count("yes") / len(said) if said else self.otherwise


class JudgementForm(OneOf):
    """A judgement by name."""

    what = "judgement"

    words: Words | None = None
    rating: Rating | None = None
    yes_no: YesOrNo | None = None


class CheckerForm(NodeForm):
    """Judges states: by a rule, by a model, or by a model that compares several."""

    rule: RuleForm | None = None
    reward: Number | None = Field(
        None, description="The score of what keeps the rule; it then refuses nothing. By default it refuses."
    )
    judge: JudgementForm | None = None
    kind: CheckerKind = Field("state", description="vote and pairwise compare several states.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        ways = [key for key in ("rule", "judge", "function") if key in data]
        kind = data.get("kind")
        about: About = "vote" if kind == "vote" else "pairwise" if kind == "pairwise" else "checker"
        cls.check_node(data, about, scope)
        if len(ways) > 1:
            scope.report(f"give one of {', '.join(ways)}", ways[-1], at_key=True)
        if data.get("kind", "state") != "state":
            cls._check_comparing(data, scope)
        elif not ways:
            scope.report("no rule, judge or function; give one, such as judge: rating")
        if "rule" in data and "prompt" in data:
            scope.report("a rule asks no model; leave the prompt out, or judge what it says", "prompt", at_key=True)
        if "reward" in data and "rule" not in data:
            scope.report("a reward is for what keeps a rule, and there is none", "reward", at_key=True)
        if "judge" in data and "prompt" not in data:
            scope.report("no prompt; give prompt: what a model is asked to judge")
        if "rule" in data and scope.known_fields is None:
            scope.report("a rule looks at fields of a state, and there is no state; give state: fields")

    @classmethod
    def _check_comparing(cls, data: Mapping[str, Any], scope: Scope) -> None:
        kind = data["kind"]
        for key in ("rule", "judge"):
            if key in data:
                scope.report(f"kind: {kind} reads the number of the choice itself; leave {key} out", key, at_key=True)
        if "function" not in data and "prompt" not in data:
            scope.report("no prompt; give prompt: what a model is asked to compare")

    def about(self) -> About:
        return "checker" if self.kind == "state" else self.kind

    def declare(self, outside: Outside, kinds: Mapping[str, FieldType] = NO_FIELDS) -> Checker:
        if self.function is not None:
            function = outside.find(self.function)
        elif self.kind != "state":
            function = read_choice if self.kind == "vote" else read_preference
        elif self.rule is not None:
            function = KeepsRule(self.rule, self.reward)
        elif self.judge is not None:
            function = Judge(self.judge)
        else:
            raise OptionError(f"checker {self.name!r}: no rule, judge or function; give one, such as judge: rating")
        return checker(**self.options(outside), kind=self.kind)(function)

    def _is_complete(self, scope: Scope) -> bool:
        if self.function is None:
            needs_prompt = self.kind != "state" or self.judge is not None
            if needs_prompt == (self.prompt is None) or (self.kind == "state" and not (self.rule or self.judge)):
                return False
        return super()._is_complete(scope)


def read_choice(states: Sequence[Any], completion: str) -> int | None:
    """The choice, from 0, that the last line names by its number, from 1."""
    return choice(completion, len(states))


def read_preference(first: Any, second: Any, completion: str) -> float:
    """1 where the last line names the first, 0 where it names the second, else a half."""
    chosen = choice(completion, 2)
    return 0.5 if chosen is None else 1.0 - chosen


@dataclass(frozen=True, slots=True)
class KeepsRule:
    """A rule as a checker: it refuses what breaks it, or rewards what keeps it."""

    rule: RuleForm
    reward: float | None = None

    def __call__(self, state: Any) -> Verdict:
        fault = self.rule.fault(lambda name: getattr(state, name))
        if self.reward is None:
            return Verdict(valid=not fault, reason=fault)
        return Verdict(score=0.0 if fault else self.reward, reason=fault)


@dataclass(frozen=True, slots=True)
class Judge:
    """A judgement as a checker."""

    form: JudgementForm

    def __call__(self, state: Any, completions: list[str]) -> Verdict:
        judgement: Judgement = self.form.chosen
        return judgement.verdict(completions)


WRITTEN_COMPARERS: Mapping[Callable[..., Any], CheckerKind] = {read_choice: "vote", read_preference: "pairwise"}
"""The functions of comparers that a file declares without naming any."""
