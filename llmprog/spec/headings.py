"""What stands at the head of a program file: its name, what it is for, and the parameters it can be set to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from llmprog.documents import Document, Path
from llmprog.errors import OptionError
from llmprog.program import Program
from llmprog.programs.catalog import Parameter, parse_setting
from llmprog.spec.outside import Outside
from llmprog.spec.reading import Part, Scalar, Scope, Text, as_tuple

ParameterType = Literal["text", "integer", "number", "boolean"]

_TYPES: Mapping[str, type] = {"text": str, "integer": int, "number": float, "boolean": bool}
_TEMPLATES = frozenset({
    "prompt", "system", "user", "assistant", "prefix", "fill", "answer", "explain", "to", "equals", "text", "into",
    "append", "join", "template",
})  # fmt: skip
"""Keys below which texts are templates, in which braces of a value have to be doubled."""
_USE = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")


class ParameterForm(Part):
    """A parameter: its default, what it is for, and what it may be. A value alone is the default."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": ["string", "number", "boolean"]}

    default: Scalar
    help: Text = ""
    type: ParameterType | None = Field(None, description="That of the default, if it has one.")
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(as_tuple)] = Field((), description="The values it may have.")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"default": data}

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if data.get("default") is None and "type" not in data:
            scope.report("a default of null has no type; give type: text, integer, number or boolean")
        choices = data.get("choices")
        if isinstance(choices, list) and choices and data.get("default") not in (*choices, None):
            scope.report(f"{data.get('default')!r} is none of the choices", "default")

    @property
    def annotation(self) -> Any:
        """Its type, as a function's parameter would have it."""
        if self.choices:
            made: Any = Literal[tuple(self.choices)]
        elif self.type is not None:
            made = _TYPES[self.type]
        else:
            made = type(self.default)
        return made | None if self.default is None else made


class Named(Part):
    """What every kind of program has. All but the name belongs to a file, and stands at its top."""

    llmprog: Literal[1] = Field(1, description="The version of this form.")
    name: Annotated[Text, Field(min_length=1)] | None = Field(None, description="For messages and records.")
    description: Text | None = Field(None, description="What it does; the first line is shown in lists.")
    parameters: dict[Text, ParameterForm] = Field(default_factory=dict, description="What --set can change.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if data is not scope.document.value:
            for key in ("llmprog", "description", "parameters"):
                if key in data:
                    scope.report(f"{key} belongs to the top of the file", key, at_key=True)

    def build(self, outside: Outside) -> Program:
        """The program.

        Raises:
            LLMProgError: It is declared wrongly.
        """
        raise NotImplementedError

    @property
    def naming(self) -> dict[str, str]:
        """The name as an argument, where there is one."""
        return {} if self.name is None else {"name": self.name}


def read_parameters(document: Document) -> dict[str, Parameter]:
    """The parameters that a file declares; their faults are reported."""
    content = document.value
    declared = content.get("parameters") if isinstance(content, dict) else None
    found: dict[str, Parameter] = {}
    if not isinstance(declared, dict):
        return found
    state = content.get("state")
    for name, form in declared.items():
        path: Path = ("parameters", name)
        if not name.isidentifier():
            document.report(path, f"{name!r} is no name for a parameter; use letters, digits and _", at_key=True)
        elif isinstance(state, dict) and name in state:
            document.report(path, f"{name!r} is a field of the state too; rename one of them", at_key=True)
        try:
            made = ParameterForm.model_validate(form)
        except ValueError:
            continue  # said when the whole is read
        if made.default is not None or made.type is not None or made.choices:
            found[name] = Parameter(name=name, annotation=made.annotation, default=made.default, help=made.help)
    return found


def put_in(document: Document, values: Mapping[str, Any]) -> None:
    """Replace ``{name}`` by the value of the parameter, everywhere but where parameters are declared.

    A text that is nothing else becomes the value itself, a number for one.
    """
    content = document.value
    if isinstance(content, dict):
        for key, item in content.items():
            if key != "parameters":
                content[key] = _replaced(item, values, key in _TEMPLATES)


def _replaced(item: Any, values: Mapping[str, Any], in_template: bool) -> Any:
    if isinstance(item, dict):  # in place: its place in the file is found by its identity
        for key, inner in item.items():
            item[key] = _replaced(inner, values, in_template or key in _TEMPLATES)
    elif isinstance(item, list):
        item[:] = [_replaced(inner, values, in_template) for inner in item]
    elif isinstance(item, str):
        return _replaced_text(item, values, in_template)
    return item


def _replaced_text(text: str, values: Mapping[str, Any], in_template: bool) -> Any:
    def shown(value: Any) -> str:
        said = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        return said.replace("{", "{{").replace("}", "}}") if in_template else said

    alone = _USE.fullmatch(text)
    if alone is not None and alone[1] in values:
        value = values[alone[1]]
        return shown(value) if isinstance(value, str) else value
    return _USE.sub(lambda use: shown(values[use[1]]) if use[1] in values else use[0], text)


def checked_values(parameters: Mapping[str, Parameter], given: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The value of each parameter: what was given, else the default.

    Raises:
        OptionError: Something given is no parameter, or not of its type.
    """
    for name in given:
        if name not in parameters:
            raise OptionError.unknown(f"parameter of {file}", name, parameters)
    return {
        name: parse_setting(parameter, given[name]) if name in given else parameter.default
        for name, parameter in parameters.items()
    }
