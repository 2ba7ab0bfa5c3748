"""Plain steps between programs that a file names: parsers, templates, joining; and what else a dataflow asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from llmprog.arithmetic import ExpressionError, evaluate
from llmprog.spec.outside import Outside
from llmprog.spec.parsers import FunctionName, Parser, ParserForm
from llmprog.spec.reading import Part, Scope, Text
from llmprog.spec.rules import VALUE, RuleForm
from llmprog.templates import format_value, render


class TemplateTool(Part):
    """A text made of the input: ``{input}``, or the names of a mapping such as ``Parallel`` gives."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    text: Text

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"text": data} if isinstance(data, str) else data

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        scope.check_template(data.get("text"), None, "text")

    def apply(self, given: Any) -> Any:
        """The text; ``None`` where the input lacks a name that it uses."""
        known: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        try:
            return render(self.text, {"input": given, **known})
        except KeyError:
            return None


class JoinTool(Part):
    """The items of a list as one text."""

    between: Text = Field("\n", description="What stands between two items.")

    def apply(self, given: Any) -> Any:
        """The text; ``None`` where the input is no list."""
        if isinstance(given, str) or not isinstance(given, list | tuple):
            return None
        return self.between.join(format_value(item) for item in given)


class CalculateTool(Part):
    """The exact value of an arithmetic expression."""

    def apply(self, given: Any) -> Any:
        """The value; ``None`` where the input is no expression."""
        try:
            return evaluate(format_value(given))
        except ExpressionError:
            return None


class ToolForm(ParserForm):
    """A tool by name: a parser (of several finds, the list of them), or one of its own."""

    what = "tool"

    template: TemplateTool | None = None
    join: JoinTool | None = None
    calculate: CalculateTool | None = None
    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        FunctionName.check(data, scope)

    def as_function(self, outside: Outside) -> Callable[[Any], Any]:
        """It as a function of one value."""
        return UseTool(self) if self.function is None else outside.find(self.function)


@dataclass(frozen=True, slots=True)
class UseTool:
    """A tool as a function of one value."""

    form: ToolForm

    def __call__(self, given: Any) -> Any:
        tool = self.form.chosen
        if not isinstance(tool, Parser):
            return tool.apply(given)
        found = [find["value"] for find in tool.find(format_value(given))]
        if tool.finds_many and getattr(tool, "which", "all") == "all":
            return found
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class KeyOf:
    """What a parser finds in the input, as the key of a branch; empty where it finds nothing."""

    form: ParserForm

    def __call__(self, given: Any) -> str:
        parser: Parser = self.form.parser
        return next((format_value(find["value"]) for find in parser.find(format_value(given))), "")


@dataclass(frozen=True, slots=True)
class HoldsOf:
    """Whether a rule holds of a value."""

    rule: RuleForm

    def __call__(self, value: Any) -> bool:
        return not self.rule.fault({VALUE: value}.__getitem__)


@dataclass(frozen=True, slots=True)
class JoinAnswers:
    """A text made of the answers of several programs, by their names."""

    template: str

    def __call__(self, **answers: Any) -> str:
        return render(self.template, answers)
