"""The controllers of ``llmprog.search`` as parts of the form, with whatever parameters they declare.

The models are made of the controllers' own fields, so a controller of the library can be named here as soon as it
exists. A parameter that cannot be written (an object of somebody's own) is left out, and has its default.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

import llmprog.search as library
from llmprog.errors import OptionError
from llmprog.programs.catalog import section_helps
from llmprog.search import (
    BetaStop,
    Controller,
    LearnedPolicy,
    Operation,
    OperationGraph,
    Policy,
    Prompter,
    RollbackRules,
    StoppingRule,
    TreeController,
    WindowStop,
    load_policy,
)
from llmprog.signatures import union_members
from llmprog.spec.outside import Outside, name_of
from llmprog.spec.parsers import FunctionName
from llmprog.spec.reading import Flag, Number, OneOf, Part, Scope, Text, Texts, Whole, as_tuple

_SCALARS: Mapping[Any, Any] = {int: Whole, float: Number, bool: Flag, str: Text}


class Made(Part):
    """A value of the library by its parameters: each field of the model is one of the value's."""

    makes: typing.ClassVar[type] = object

    def make(self, outside: Outside) -> Any:
        """The value.

        Raises:
            OptionError: The parameters do not allow it, or name a function that is not there.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return self.makes(**{name: _made(value, outside) for name, value in given.items()})

    def check_made(self, scope: Scope) -> None:
        try:
            self.make(scope.outside)
        except OptionError as error:
            if not any(str(error) in fault.message for fault in scope.document.faults):
                scope.report(str(error))


class PolicyFile(Part):
    """A learned policy: a file that ``llmprog train-policy`` wrote, by its path from this file."""

    file: Text

    def make(self, outside: Outside) -> LearnedPolicy:
        """The policy."""
        return load_policy(outside.folder / self.file)


class MadeChoice(OneOf):
    """One of several values of the library."""

    def make(self, outside: Outside) -> Any:
        """The value."""
        return _made(self.chosen, outside)


def _made(value: Any, outside: Outside) -> Any:
    if isinstance(value, Made | MadeChoice | PolicyFile):
        return value.make(outside)
    if isinstance(value, FunctionName):
        return value.find_in(outside)
    if isinstance(value, dict):  # the only mappings are operations by name, and such plans by name
        made = {name: _made(item, outside) for name, item in value.items()}
        return made if all(isinstance(item, OperationGraph) for item in made.values()) else OperationGraph(made)
    return value


def form_of(value: Any, names: type[MadeChoice]) -> dict[str, Any]:
    """A value of the library as the form that ``names`` reads.

    Raises:
        OptionError: It, or one of its parameters, cannot be written.
    """
    name = type(value).__name__
    model = names.model_fields.get(name)
    if model is None:
        raise OptionError(f"{name} has no written form; what has one: {', '.join(names.keys())}")
    return {name: _parameters(value, _model_in(model.annotation))}


def _parameters(value: Any, model: type[Made]) -> dict[str, Any]:
    form: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        if not f.init:
            continue
        given = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if given is default or (type(given) is type(default) and given == default):
            continue
        field = model.model_fields.get(f.name)
        if field is None:
            raise OptionError(f"{type(value).__name__}: {f.name}={given!r:.80} cannot be written")
        form[f.name] = _written(given, field.annotation)
    return form


def _written(value: Any, annotation: Any) -> Any:
    if isinstance(value, OperationGraph):
        return {name: form_of(step, operation_form()) for name, step in value.steps}
    if isinstance(value, Mapping):
        return {name: _written(plan, annotation) for name, plan in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return list(value)
    for choice in _models_in(annotation):
        if issubclass(choice, MadeChoice):
            return form_of(value, choice)
    return {"function": name_of(value)}


# ------------------------------------------------------------------------------ models of the library's values


def model_of(kind: type) -> type[Made] | None:
    """The model of a dataclass's parameters; ``None`` where one that it needs cannot be written."""
    hints = typing.get_type_hints(kind)
    helps = _attribute_helps(kind)
    made: dict[str, Any] = {}
    for f in dataclasses.fields(kind):
        if not f.init:
            continue
        is_required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        annotation = _annotation(hints[f.name])
        if annotation is None:
            if is_required:
                return None
            continue
        description = helps.get(f.name)
        default = ... if is_required else f.default if isinstance(f.default, int | float | str) else None
        made[f.name] = (annotation, Field(default, description=description))
    doc = (kind.__doc__ or "").partition("\n")[0]
    model = create_model(kind.__name__, __base__=Made, __doc__=doc, **made)
    model.makes = kind
    return model


def choice_of(name: str, what: str, kinds: typing.Iterable[type]) -> type[MadeChoice]:
    """A model of one of several dataclasses, by name."""
    made: Any = {}
    for kind in kinds:
        model = model_of(kind)
        if model is not None:
            made[kind.__name__] = (model | None, None)  # an annotation, and its default
    choice: type[MadeChoice] = create_model(name, __base__=MadeChoice, __doc__=f"A {what} by name.", **made)
    choice.what = what
    return choice


def _annotation(hint: Any) -> Any:
    """What a parameter with a type hint of the library is in the form; ``None`` where it cannot be written."""
    members = union_members(hint)
    if len(members) > 1:
        forms = [_annotation(member) for member in members if member is not type(None)]
        if any(form is None for form in forms):
            return None
        if type(None) in members:
            forms.append(type(None))
        return functools.reduce(lambda a, b: a | b, forms)
    origin = typing.get_origin(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is Literal:
        return hint
    if origin is tuple:
        if typing.get_args(hint) == (str, ...):
            return Texts
        return Annotated[tuple[Number, Number], BeforeValidator(as_tuple)]
    if origin is collections.abc.Callable:
        return prompter_form() if "Memory" in str(hint) else FunctionName
    if hint == Mapping[str, OperationGraph]:  # among operations, whose model is about to be made
        return dict[Text, dict[Text, typing.ForwardRef("OperationForm")]]  # type: ignore[misc]  # resolved there
    known: Mapping[Any, Callable[[], Any]] = {
        StoppingRule: stopping_form,
        Policy: policy_form,
        LearnedPolicy: lambda: PolicyFile,
        OperationGraph: lambda: dict[Text, operation_form()],  # type: ignore[misc]  # a model that is made here
    }
    return known[hint]() if hint in known else None


@functools.cache
def stopping_form() -> type[MadeChoice]:
    """The rules by which a vote stops early."""
    return choice_of("Stopping", "stopping rule", (BetaStop, WindowStop))


@functools.cache
def policy_form() -> type[MadeChoice]:
    """The policies of a single line of thought."""
    return choice_of("PolicyForm", "policy", (RollbackRules,))


@functools.cache
def prompter_form() -> type[MadeChoice]:
    """What gives hints."""
    return choice_of("PrompterForm", "prompter", (Prompter,))


@functools.cache
def operation_form() -> type[MadeChoice]:
    """The operations on a graph of thoughts."""
    form = choice_of("OperationForm", "operation", _kinds_of(Operation))
    for field in form.model_fields.values():
        for model in _models_in(field.annotation):
            model.model_rebuild(_types_namespace={"OperationForm": form})
    form.model_rebuild(force=True)
    return form


@functools.cache
def controller_form() -> type[MadeChoice]:
    """The controllers that the library has."""
    return choice_of("ControllerForm", "controller", _kinds_of(Controller, TreeController))


def _kinds_of(*bases: type) -> Iterator[type]:
    """The public classes of ``llmprog.search`` that are of a kind, without those that are only derived from."""
    for name in library.__all__:
        made = getattr(library, name)
        if isinstance(made, type) and issubclass(made, bases) and made not in bases:
            yield made


def _models_in(annotation: Any) -> list[type[Any]]:
    return [member for member in union_members(annotation) if isinstance(member, type) and issubclass(member, Part)]


def _model_in(annotation: Any) -> type[Made]:
    model: type[Made] = _models_in(annotation)[0]
    return model


def _attribute_helps(kind: type) -> dict[str, str]:
    """Help per field from the ``Attributes`` sections of the class and its bases."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        helps |= section_helps(base.__dict__.get("__doc__") or "", "Attributes")
    return helps
