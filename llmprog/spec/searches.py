"""A search as a file writes it: its state, its nodes, its controller, and what counts as done."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BeforeValidator, Field

from llmprog.program import Program
from llmprog.spec.checkers import CheckerForm
from llmprog.spec.controllers import MadeChoice, controller_form
from llmprog.spec.generators import GeneratorForm
from llmprog.spec.headings import Named
from llmprog.spec.outside import Outside
from llmprog.spec.parsers import FunctionName
from llmprog.spec.reading import Fields, Part, Scope, Text, Texts, as_tuple
from llmprog.spec.rules import ConditionForm, RuleForm
from llmprog.spec.states import FieldForm, FieldType, Start, as_type, state_class
from llmprog.templates import HINT_FIELDS, render

if TYPE_CHECKING:
    ControllerForm: TypeAlias = MadeChoice
else:
    ControllerForm = controller_form()

_RESERVED = ("state", "value", "completion", *HINT_FIELDS)


class FromState(Part):
    """What is made of a state: the value of a field, a template over the fields, or what a Python function returns."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    text: Text | None = Field(None, description="A field's name, or a template.")
    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"text": data} if isinstance(data, str) else data

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if len(data) != 1:
            scope.report("give a field's name, a template, or {function: package.module:name}")
        FunctionName.check(data, scope)
        text = data.get("text")
        if not isinstance(text, str):
            return
        if scope.known_fields is None:
            scope.report("it is about fields of a state, and there is no state; give state: fields")
        elif "{" in text or " " in text:
            scope.check_template(text, (*scope.known_fields, "state"))
        else:
            scope.check_field(text)

    def as_function(self, outside: Outside) -> Callable[[Any], Any]:
        """It as a function of a state."""
        return outside.find(self.function) if self.function is not None else OfState(self.text or "")


@dataclass(frozen=True, slots=True)
class OfState:
    """A field of a state, or a template over its fields."""

    text: str

    def __call__(self, state: Any) -> Any:
        if "{" not in self.text and " " not in self.text:
            return getattr(state, self.text)
        return render(self.text, lambda name: state if name == "state" else getattr(state, name))


@dataclass(frozen=True, slots=True)
class KeyFields:
    """The values of some fields: states that have the same are one thought."""

    fields: tuple[str, ...]

    def __call__(self, state: Any) -> tuple[Any, ...]:
        return tuple(getattr(state, name) for name in self.fields)


@dataclass(frozen=True, slots=True)
class KeepsGoal:
    """Whether a rule holds of a state."""

    rule: RuleForm

    def __call__(self, state: Any) -> bool:
        return not self.rule.fault(lambda name: getattr(state, name))


class KeyForm(Part):
    """States of which this is equal are one thought: the fields named, or what a Python function returns."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    }

    fields: Annotated[Texts, Field(min_length=1)] | None = None
    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"fields": [data] if isinstance(data, str) else data} if isinstance(data, str | list) else data

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if len(data) != 1:
            scope.report("give names of fields, or {function: package.module:name}")
        FunctionName.check(data, scope)
        for name in data.get("fields") or ():
            scope.check_field(name)

    def as_function(self, outside: Outside) -> Callable[[Any], Any]:
        """It as a function of a state."""
        return outside.find(self.function) if self.function is not None else KeyFields(self.fields or ())


def _as_texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


class SearchForm(Named):
    """A search: generators make states, checkers judge them, a controller says what comes next."""

    state: dict[Text, FieldForm] = Field(default_factory=dict, description="The fields of a state, with their types.")
    input: Annotated[Texts, BeforeValidator(_as_texts, json_schema_input_type=str | list[str])] = Field(
        (), description="The fields that the input fills; the first field by default."
    )
    start: FunctionName | None = Field(None, description="A Python function that makes the first state.")
    generators: Annotated[tuple[GeneratorForm, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    checkers: Annotated[tuple[CheckerForm, ...], BeforeValidator(as_tuple)] = ()
    controller: ControllerForm
    goal: ConditionForm | None = Field(None, description="What solves the problem.")
    answer: FromState | None = Field(None, description="What is answered; the state by default.")
    key: KeyForm | None = Field(None, description="What makes two states one thought; all fields by default.")
    explain: FromState | None = Field(None, description="What is said where no solution was found.")

    @classmethod
    def fields_inside(cls, data: Mapping[str, Any], outside: Fields) -> Fields:
        state = data.get("state")
        return tuple(state) if isinstance(state, dict) and state and "start" not in data else None

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        super().check(data, scope)
        state = data.get("state")
        names = state if isinstance(state, dict) else {}
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in _RESERVED:
                reserved = ", ".join(_RESERVED)
                scope.report(
                    f"{name!r} is no name for a field; allowed are plain words other than {reserved}",
                    "state", name, at_key=True,
                )  # fmt: skip
        if "start" in data and names:
            scope.report("start makes states of its own; leave state out", "state", at_key=True)
        given = data.get("input")
        for place, name in enumerate(given if isinstance(given, list) else [given] if isinstance(given, str) else []):
            if name not in names:
                scope.report(
                    f"no field {name!r}; fields: {', '.join(names) or 'none'}",
                    "input", *((place,) if isinstance(given, list) else ()),
                )  # fmt: skip
        if "goal" in data and not names and not _names_a_function(data["goal"]):
            scope.report("a rule looks at fields of a state, and there is no state; give state: fields", "goal")

    def build(self, outside: Outside) -> Program:
        kinds: Mapping[str, FieldType] = {name: form.type for name, form in self.state.items()}
        return Program(
            **self.naming,
            start=self._start(outside),
            generators=[form.declare(outside, kinds) for form in self.generators],
            checkers=[form.declare(outside, kinds) for form in self.checkers],
            controller=self.controller.make(outside),
            goal=None if self.goal is None else self._goal(self.goal, outside),
            answer=None if self.answer is None else self.answer.as_function(outside),
            key=None if self.key is None else self.key.as_function(outside),
            explain=None if self.explain is None else self.explain.as_function(outside),
        )

    def _start(self, outside: Outside) -> Callable[[Any], Any] | None:
        if self.start is not None:
            return self.start.find_in(outside)
        if not self.state:
            return None
        defaults = tuple(
            (name, as_type(form.default, form.type)) for name, form in self.state.items() if form.default is not None
        )
        return Start(
            state=state_class(self.state),
            fields=tuple((name, form.type) for name, form in self.state.items()),
            inputs=self.input or (next(iter(self.state)),),
            defaults=defaults,
        )

    def _goal(self, form: ConditionForm, outside: Outside) -> Callable[[Any], bool]:
        return outside.find(form.function) if form.function is not None else KeepsGoal(form)


def _names_a_function(form: Any) -> bool:
    return isinstance(form, dict) and "function" in form
