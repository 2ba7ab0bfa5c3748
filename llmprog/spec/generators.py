"""Generators of program files: the completion is parsed, and what is found changes fields of the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llmprog.nodes import Generator, generator
from llmprog.spec.nodes import NO_FIELDS, NodeForm
from llmprog.spec.outside import Outside
from llmprog.spec.parsers import Find, Parser, ParserForm
from llmprog.spec.prompts import About
from llmprog.spec.reading import Flag, Part, Scope, Text
from llmprog.spec.states import Change, FieldType

FOUND = ("value", "completion")
"""What every parser's find can be asked for."""


class Added(Part):
    """What is added to the end of a list."""

    append: Text


Into = dict[str, Text | Added]


def _source_text(source: str | Added) -> str:
    return source if isinstance(source, str) else source.append


def _into(value: Any) -> Any:
    return {value: "value"} if isinstance(value, str) else value


class GeneratorForm(NodeForm):
    """Makes new states: the completion is parsed, and what is found changes fields of the state."""

    parse: ParserForm | None = None
    into: Annotated[Into, BeforeValidator(_into, json_schema_input_type=str | Into)] = Field(
        default_factory=dict, description="Fields that change: a name of what was found (value), or a template."
    )
    aggregates: Flag = Field(False, description="It makes one state of many, for GraphOfThoughts.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        cls.check_node(data, "aggregate" if data.get("aggregates") is True else "generator", scope)
        if "function" in data:
            for key in ("parse", "into"):
                if key in data:
                    scope.report("a function parses completions itself; leave this out", key, at_key=True)
            return
        for key, hint in (("prompt", "what is asked"), ("parse", "what is read of it, such as last_number")):
            if key not in data:
                scope.report(f"no {key}; give {key}: {hint}")
        if scope.known_fields is None:
            scope.report("what is parsed goes into fields of a state, and there is no state; give state: fields")
        into = data.get("into")
        targets = [into] if isinstance(into, str) else list(into) if isinstance(into, dict) else []
        for name in targets:
            scope.check_field(name, "into", *(() if isinstance(into, str) else (name,)), at_key=True)

    def check_made(self, scope: Scope) -> None:
        super().check_made(scope)
        if self.parse is None:
            return
        names = self.parse.parser.found_names()
        fields = scope.known_fields
        if not self.into and not (set(names or ()) & set(fields or ())):
            scope.report("what is found goes nowhere; give into: the field that takes it")
        for name, source in self.into.items():
            text = _source_text(source)
            if "{" in text:
                known = None if names is None else (*FOUND, *names, *(fields or ()))
                scope.check_template(text, known, "into", name)
            elif names is not None and text not in (*FOUND, *names):
                scope.report(f"{text!r} is not found by the parser; names: {', '.join((*FOUND, *names))}", "into", name)

    def about(self) -> About:
        return "aggregate" if self.aggregates else "generator"

    def change(self, kinds: Mapping[str, FieldType]) -> Change:
        """What becomes of the fields of a state."""
        into: dict[str, str | Added] = dict(self.into)
        if not into and self.parse is not None:
            names = self.parse.parser.found_names() or ()
            into = {name: name for name in kinds if name in names}
        return Change(
            tuple((name, kinds[name]) for name in into if name in kinds),
            tuple(_source_text(source) for name, source in into.items() if name in kinds),
            tuple(isinstance(source, Added) for name, source in into.items() if name in kinds),
        )

    def declare(self, outside: Outside, kinds: Mapping[str, FieldType] = NO_FIELDS) -> Generator:
        if self.parse is not None:
            function: Callable[..., Any] = ParseInto(self.parse, self.change(kinds), aggregates=self.aggregates)
        else:
            function = outside.find(self.function or "")
        return generator(**self.options(outside), aggregates=self.aggregates)(function)

    def _is_complete(self, scope: Scope) -> bool:
        has_all = self.function is not None or (self.prompt is not None and self.parse is not None)
        return has_all and super()._is_complete(scope)


@dataclass(frozen=True, slots=True)
class ParseInto:
    """Makes states of a completion: one of everything that the parser finds and that fits."""

    form: ParserForm
    change: Change
    aggregates: bool = False

    def __call__(self, state: Any, completion: str) -> list[Any]:
        base = state[0] if self.aggregates else state
        parser: Parser = self.form.parser
        finds: list[Find] = [{**found, "completion": completion.strip()} for found in parser.find(completion)]
        states = (self.change.apply(base, found) for found in finds)
        return [made for made in states if made is not None]
