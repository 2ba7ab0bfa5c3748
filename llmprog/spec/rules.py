"""The rules that a program file names: what has to hold of a state's fields, or of a value, and why it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llmprog.arithmetic import ExpressionError, canonical_number, format_number, parse
from llmprog.backends.remote.guided import violation
from llmprog.errors import OptionError
from llmprog.parsers import all_numbers
from llmprog.search import canonical_answer
from llmprog.spec.parsers import FunctionName
from llmprog.spec.patterns import Pattern, check_pattern, is_matched
from llmprog.spec.reading import Flag, Number, OneOf, Part, Scalar, Scope, Text, Texts, Whole, as_tuple
from llmprog.templates import format_value, render
from llmprog.types import JsonSchema

VALUE = "value"
"""What a rule looks at where there is no state but a value alone."""

Lookup = Callable[[str], Any]


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class Rule(Part):
    """What rules have in common: they look at one field, and say in words what is wrong with it."""

    field: Text = Field(VALUE, description="The field of the state; of a value alone: value.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        scope.check_field(data.get("field", VALUE), *(("field",) if "field" in data else ()))
        cls.check_more(data, scope)

    @classmethod
    def check_more(cls, data: Mapping[str, Any], scope: Scope) -> None:
        """Report what is wrong with the other parameters."""

    def fault(self, lookup: Lookup) -> str:
        """Why the rule does not hold; empty if it does."""
        value = lookup(self.field)
        if value is None:
            return f"{self.field} is empty"
        return self.fault_of(value, lookup)

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        """Why it does not hold of a value."""
        raise NotImplementedError


class NotEmpty(Rule):
    """There is something in it."""

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        return "" if not isinstance(value, str | tuple) or value else f"{self.field} is empty"


class Matches(Rule):
    """A regular expression matches it."""

    pattern: Pattern
    whole: Flag = Field(True, description="All of the text, not just a part of it.")
    ignore_case: Flag = False

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        text = format_value(value)
        if is_matched(self.pattern, text, whole=self.whole, ignore_case=self.ignore_case):
            return ""
        return f"{self.field} is {_shown(text)}, which {self.pattern!r} does not match"

    @classmethod
    def check_more(cls, data: Mapping[str, Any], scope: Scope) -> None:
        check_pattern(data.get("pattern"), scope)


class Equals(Rule):
    """It equals a value or a template: numbers exactly, texts without regard to case and spacing."""

    to: Scalar

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        wanted = render(self.to, lookup) if isinstance(self.to, str) else self.to
        if _canonical(value) == _canonical(wanted):
            return ""
        return f"{self.field} is {_shown(format_value(value))}, not {_shown(format_value(wanted))}"

    @classmethod
    def check_more(cls, data: Mapping[str, Any], scope: Scope) -> None:
        scope.check_template(data.get("to"), scope.known_fields, "to")


class IsNumber(Rule):
    """It is a number, within limits."""

    lowest: Number | None = None
    highest: Number | None = None
    whole: Flag = Field(False, description="Whole numbers only.")

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        number = value if isinstance(value, int | Fraction) else canonical_number(format_value(value))
        if number is None or isinstance(number, bool):
            return f"{self.field} is {_shown(format_value(value))}, which is no number"
        if self.whole and Fraction(number).denominator != 1:
            return f"{self.field} is {number}, which is not whole"
        if self.lowest is not None and number < self.lowest:
            return f"{self.field} is {number}, below {self.lowest:g}"
        if self.highest is not None and number > self.highest:
            return f"{self.field} is {number}, above {self.highest:g}"
        return ""


class IsOneOf(Rule):
    """It is one of some texts, without regard to case and spacing."""

    options: Annotated[Texts, Field(min_length=1)]

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        if _canonical(value) in map(_canonical, self.options):
            return ""
        return f"{self.field} is {_shown(format_value(value))}; allowed are {', '.join(self.options)}"


class Contains(Rule):
    """A text, or a template, is somewhere in it."""

    text: Text
    ignore_case: Flag = True

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        text, wanted = format_value(value), render(self.text, lookup)
        found = wanted.casefold() in text.casefold() if self.ignore_case else wanted in text
        return "" if found else f"{self.field} does not contain {_shown(wanted)}"

    @classmethod
    def check_more(cls, data: Mapping[str, Any], scope: Scope) -> None:
        scope.check_template(data.get("text"), scope.known_fields, "text")


class Length(Rule):
    """It is neither too short nor too long; of a list, the number of its items counts as words."""

    min_words: Whole | None = Field(None, ge=0)
    max_words: Whole | None = Field(None, ge=0)
    min_characters: Whole | None = Field(None, ge=0)
    max_characters: Whole | None = Field(None, ge=0)

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        text = format_value(value)
        num_words = len(value) if isinstance(value, tuple) else len(text.split())
        for number, lowest, highest, what in (
            (num_words, self.min_words, self.max_words, "items" if isinstance(value, tuple) else "words"),
            (len(text), self.min_characters, self.max_characters, "characters"),
        ):
            if lowest is not None and number < lowest:
                return f"{self.field} has {number} {what}; at least {lowest} are wanted"
            if highest is not None and number > highest:
                return f"{self.field} has {number} {what}; at most {highest} are allowed"
        return ""


class MatchesSchema(Rule):
    """It is JSON that satisfies a JSON schema."""

    json_schema: dict[str, Any] = Field(alias="schema")

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        found = violation(format_value(value), JsonSchema.of(self.json_schema))
        return "" if found is None else f"{self.field}: {found}"

    def check_made(self, scope: Scope) -> None:
        try:
            violation("{}", JsonSchema.of(self.json_schema))
        except OptionError as error:
            scope.report(str(error), "schema")


class Arithmetic(Rule):
    """It is an arithmetic expression with a value, exactly, and of certain numbers, each used once."""

    equals: Annotated[Text | None, BeforeValidator(_number_as_text)] = Field(
        None, description="The value: a number, or a template of one."
    )
    numbers: Text | None = Field(None, description="The field that holds the numbers it uses, each once.")

    def fault_of(self, value: Any, lookup: Lookup) -> str:
        text = format_value(value)
        try:
            expression = parse(text.rpartition("=")[0] if "=" in text else text)
            result = expression.evaluate()
        except ExpressionError as error:
            return f"{self.field}: {error}"
        if self.equals is not None:
            wanted = canonical_number(render(self.equals, lookup))
            if wanted is None or result != wanted:
                return f"{self.field} is {format_number(result)}, not {render(self.equals, lookup)}"
        if self.numbers is not None:
            given = sorted(all_numbers(format_value(lookup(self.numbers))))
            if sorted(expression.numbers()) != given:
                used = " ".join(map(str, sorted(expression.numbers())))
                return f"{self.field} uses {used}, not {' '.join(map(str, given))}"
        return ""

    @classmethod
    def check_more(cls, data: Mapping[str, Any], scope: Scope) -> None:
        scope.check_template(data.get("equals"), scope.known_fields, "equals")
        scope.check_field(data.get("numbers"), "numbers")


class RuleForm(OneOf):
    """A rule by name."""

    what = "rule"

    not_empty: NotEmpty | None = None
    matches: Matches | None = None
    equals: Equals | None = None
    is_number: IsNumber | None = None
    one_of: IsOneOf | None = None
    contains: Contains | None = None
    length: Length | None = None
    json_schema: MatchesSchema | None = None
    arithmetic: Arithmetic | None = None
    every: Annotated[tuple[RuleForm, ...] | None, BeforeValidator(as_tuple)] = Field(
        None, min_length=1, description="All of these hold."
    )
    some: Annotated[tuple[RuleForm, ...] | None, BeforeValidator(as_tuple)] = Field(
        None, min_length=1, description="At least one of these holds."
    )
    none: RuleForm | None = Field(None, description="This one does not hold.")

    def fault(self, lookup: Lookup) -> str:
        """Why it does not hold; empty if it does."""
        if self.every is not None:
            return next((fault for rule in self.every if (fault := rule.fault(lookup))), "")
        if self.some is not None:
            faults = [rule.fault(lookup) for rule in self.some]
            return "; ".join(faults) if all(faults) else ""
        if self.none is not None:
            return "" if self.none.fault(lookup) else f"{self.none.chosen_name} holds"
        rule: Rule = self.chosen
        return rule.fault(lookup)


class ConditionForm(RuleForm):
    """A rule by name, or a Python function that is true or false."""

    what = "rule"

    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        FunctionName.check(data, scope)


def _canonical(value: Any) -> str | None:
    return canonical_answer(value if isinstance(value, str | int | float | Fraction) else format_value(value))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
