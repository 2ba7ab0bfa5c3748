"""The parsers that a program file names: each turns what a model said into what it found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmprog.arithmetic import ExpressionError, parse
from llmprog.errors import OptionError
from llmprog.parsers import (
    json_at,
    json_in,
    json_steps,
    last_line,
    last_number,
    last_option,
    listed_lines,
    rating,
)
from llmprog.programs.answers import stated_answer
from llmprog.spec.patterns import Pattern, check_pattern, group_names, matches
from llmprog.spec.reading import Flag, Number, OneOf, Part, Scope, Text, Texts, Whole

if TYPE_CHECKING:
    from llmprog.spec.outside import Outside

Find = dict[str, Any]
"""What a parser found: ``value``, and whatever else it has names for."""


class Parser(Part):
    """What parsers have in common. ``names`` are those that a find has beside ``value``; ``None`` for any."""

    names: ClassVar[tuple[str, ...] | None] = ()
    finds_many: ClassVar[bool] = False

    def find(self, text: str) -> Iterator[Find]:
        """What there is in a text; nothing where it cannot be read."""
        raise NotImplementedError

    def found_names(self) -> tuple[str, ...] | None:
        """The names that a find of this parser has beside ``value``."""
        return self.names


class WholeText(Parser):
    """All that the model said."""

    strip: Flag = Field(True, description="Without blanks around it.")

    def find(self, text: str) -> Iterator[Find]:
        yield {"value": text.strip() if self.strip else text}


class StatedAnswer(Parser):
    r"""What follows ``Answer:``, is in ``\boxed{…}``, or follows "the answer is"."""

    def find(self, text: str) -> Iterator[Find]:
        found = stated_answer(text)
        if found is not None:
            yield {"value": found}


class LastNumber(Parser):
    """The last number, exactly."""

    def find(self, text: str) -> Iterator[Find]:
        found = last_number(text)
        if found is not None:
            yield {"value": found}


class LastLine(Parser):
    """The last line that is not blank."""

    def find(self, text: str) -> Iterator[Find]:
        found = last_line(text)
        if found:
            yield {"value": found}


class Lines(Parser):
    """Every line that is not blank, without bullets and numbers before it; each makes a state of its own."""

    finds_many = True
    max_lines: Whole = Field(100, ge=1, le=10_000, description="Lines taken at most.")

    def find(self, text: str) -> Iterator[Find]:
        yield from ({"value": line} for line in listed_lines(text)[: self.max_lines])


class RegexParser(Parser):
    """What a regular expression matches: its named groups; ``value`` is its first group, or else all of the match."""

    finds_many = True
    pattern: Pattern
    which: Literal["first", "last", "all"] = Field("last", description="Of several matches.")
    ignore_case: Flag = False

    def find(self, text: str) -> Iterator[Find]:
        found = matches(self.pattern, text, ignore_case=self.ignore_case)
        chosen = {"first": found[:1], "last": found[-1:], "all": found}[self.which]
        for match in chosen:
            groups = {name: value.strip() for name, value in match.groupdict().items() if value is not None}
            value = next((group for group in match.groups() if group is not None), match[0])
            yield {"value": value.strip(), **groups}

    def found_names(self) -> tuple[str, ...]:
        return group_names(self.pattern)

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        check_pattern(data.get("pattern"), scope)


class JsonPath(Parser):
    """What stands at a path, such as ``$.items[0].name``, in the last JSON of the text; keys of an object are names."""

    names = None
    finds_many = True
    path: Text = "$"
    which: Literal["first", "last", "all"] = Field("first", description="Of several, where the path has [*].")

    def find(self, text: str) -> Iterator[Find]:
        found = json_at(json_in(text), json_steps(self.path) or [])
        found = [value for value in found if value is not None]
        for value in {"first": found[:1], "last": found[-1:], "all": found}[self.which]:
            yield {**(value if isinstance(value, dict) else {}), "value": value}

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        path = data.get("path")
        if isinstance(path, str) and json_steps(path) is None:
            scope.report(f"{path!r} is no path; write one such as $.answer, items[0].name or items[*]", "path")


class ChoiceParser(Parser):
    """The one of some options that comes last in the text."""

    options: Annotated[Texts, Field(min_length=1)]
    ignore_case: Flag = True

    def find(self, text: str) -> Iterator[Find]:
        found = last_option(text, self.options, ignore_case=self.ignore_case)
        if found is not None:
            yield {"value": found}


class RatingParser(Parser):
    """The last number on the last line, if it is on the scale."""

    lowest: Number = 1.0
    highest: Number = 10.0

    def find(self, text: str) -> Iterator[Find]:
        found = rating(text, lowest=self.lowest, highest=self.highest)
        if found is not None:
            yield {"value": found}


class Expression(Parser):
    """The value of the arithmetic expression that the last line is, or that it states as the answer, exactly."""

    names = ("expression",)

    def find(self, text: str) -> Iterator[Find]:
        line = stated_answer(text) or last_line(text)
        try:
            expression = parse(line.partition("=")[0])
            value = expression.evaluate()
        except ExpressionError:
            return
        yield {"value": value, "expression": str(expression)}


class ParserForm(OneOf):
    """A parser by name."""

    what = "parser"

    text: WholeText | None = None
    stated_answer: StatedAnswer | None = None
    last_number: LastNumber | None = None
    last_line: LastLine | None = None
    lines: Lines | None = None
    regex: RegexParser | None = None
    json_path: JsonPath | None = None
    choices: ChoiceParser | None = None
    rating: RatingParser | None = None
    expression: Expression | None = None

    @property
    def parser(self) -> Parser:
        """The parser that was chosen."""
        parser: Parser = self.chosen
        return parser


class FunctionName(Part):
    """A Python function by its name: ``{function: package.module:name}``. Its module has to be trusted."""

    function: Text

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        name = data.get("function")
        if isinstance(name, str):
            try:
                scope.outside.find(name)
            except OptionError as error:
                scope.report(str(error), "function")

    def find_in(self, outside: Outside) -> Callable[..., Any]:
        """The function."""
        return outside.find(self.function)
