"""From a ``Program`` to its form, and from the form to YAML or JSON text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from llmprog import combinators
from llmprog.compile import compile_program
from llmprog.errors import LLMProgError, OptionError, SpecError
from llmprog.joined import Joined
from llmprog.nodes import Checker, Generator, Node
from llmprog.program import Program
from llmprog.programs import catalog
from llmprog.search import canonical_answer
from llmprog.spec.checkers import WRITTEN_COMPARERS, Judge, KeepsRule
from llmprog.spec.controllers import controller_form, form_of, stopping_form
from llmprog.spec.generators import ParseInto
from llmprog.spec.outside import name_of
from llmprog.spec.prompts import WrittenPrompt
from llmprog.spec.searches import KeepsGoal, KeyFields, OfState
from llmprog.spec.states import Start
from llmprog.spec.tools import HoldsOf, JoinAnswers, KeyOf, UseTool
from llmprog.spec.writing import yaml_text
from llmprog.types import Choices, Guided, JsonSchema, Regex, SamplingParams

Format = Literal["yaml", "json"]
Form = dict[str, Any]


def program_form(program: Program) -> Form:
    """What a file that declares ``program`` holds.

    Functions are written by name; a part that is a registered program with its defaults is written as its name.

    Raises:
        SpecError: Something in it has no written form; each is named.
        CompileError: It has faults.
    """
    compile_program(program)
    writer = _Writer()
    form = writer.program(program, "")
    if writer.faults:
        raise SpecError(f"program {program.name!r}", [f"program {program.name!r}: {fault}" for fault in writer.faults])
    return form


def reference_form(name: str, values: Mapping[str, Any]) -> Form:
    """What a file holds that is the program ``name`` with these values of its parameters."""
    return {"program": name, **({"set": dict(values)} if values else {})}


def dump_program(program: Program, format: Format = "yaml") -> str:  # noqa: A002 - what it is
    """``program`` as the text of a YAML or JSON file; see ``program_form`` for what can be written.

    Raises:
        SpecError: Something in it has no written form; each is named.
    """
    return form_text(program_form(program), format)


def form_text(form: Any, format: Format) -> str:  # noqa: A002 - what it is
    """A form as text, which is read back as the same."""
    if format == "json":
        return json.dumps(form, indent=2, ensure_ascii=False) + "\n"
    return yaml_text(form)


class _Writer:
    """Writes programs, and notes what cannot be written."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def program(self, program: Program, where: str) -> Form:
        if where and (name := _registered(program)) is not None:
            return {"program": name}
        return self._joined(program, where) if isinstance(program, Joined) else self._search(program, where)

    def _part(self, program: Program, where: str) -> Any:
        form = self.program(program, where)
        return form["program"] if list(form) == ["program"] else form

    # ------------------------------------------------------------------------------------------- searches

    def _search(self, program: Program, where: str) -> Form:
        form: Form = {"name": program.name}
        start = program.start
        if isinstance(start, Start):
            defaults = dict(start.defaults)
            form["state"] = {
                name: {"type": kind, "default": _plain(defaults[name])} if name in defaults else kind
                for name, kind in start.fields
            }
            if start.inputs != (start.fields[0][0],):
                form["input"] = start.inputs[0] if len(start.inputs) == 1 else list(start.inputs)
        elif start is not None:
            form["start"] = self._function(start, f"{where}start")
        form["generators"] = [self._generator(node, where) for node in program.generators]
        if program.checkers:
            form["checkers"] = [self._checker(node, where) for node in program.checkers]
        form["controller"] = self._try(lambda: form_of(program.controller, controller_form()), f"{where}controller")
        for label in ("goal", "answer", "key", "explain"):
            function = getattr(program, label)
            if function is not None:
                form[label] = self._of_state(function, f"{where}{label}")
        return form

    def _of_state(self, function: Any, where: str) -> Any:
        if isinstance(function, OfState):
            return function.text
        if isinstance(function, KeepsGoal):
            return function.rule.form()
        if isinstance(function, KeyFields):
            return function.fields[0] if len(function.fields) == 1 else list(function.fields)
        return self._function(function, where)

    def _node(self, node: Node, where: str) -> Form:
        form: Form = {"name": node.name}
        prompt: Any = node.prompt
        if isinstance(prompt, WrittenPrompt):
            form["prompt"] = prompt.form.form()
        elif callable(prompt):
            form["prompt"] = self._function(prompt, f"{where}node {node.name!r}: prompt")
        elif prompt is not None:
            form["prompt"] = prompt
        if node.n != 1:
            form["num_samples"] = node.n
        sampling = _sampling(node.params)
        if sampling:
            form["sampling"] = sampling
        return form

    def _generator(self, node: Generator, where: str) -> Form:
        form = self._node(node, where)
        function = node.function
        if isinstance(function, ParseInto):
            form["parse"] = function.form.form()
            form["into"] = _into(function)
        else:
            form |= self._function(function, f"{where}generator {node.name!r}")
        return form | ({"aggregates": True} if node.aggregates else {})

    def _checker(self, node: Checker, where: str) -> Form:
        form = self._node(node, where)
        function = node.function
        if isinstance(function, KeepsRule):
            form["rule"] = function.rule.form()
            if function.reward is not None:
                form["reward"] = function.reward
        elif isinstance(function, Judge):
            form["judge"] = function.form.form()
        elif WRITTEN_COMPARERS.get(function) != node.kind:
            form |= self._function(function, f"{where}checker {node.name!r}")
        return form | ({"kind": node.kind} if node.kind != "state" else {})

    # ------------------------------------------------------------------------------------- joined programs

    def _joined(self, program: Joined, where: str) -> Form:
        named = {"name": program.name}
        here = f"{where}{program.name}: "
        if isinstance(program, combinators.Sequence):
            return named | {"sequence": [self._part(part, here) for part in program.programs]}
        if isinstance(program, combinators.Parallel):
            parts = {name: self._part(part, here) for name, part in program.programs.items()}
            return named | {"parallel": {"programs": parts, **self._join(program.join, here)}}
        if isinstance(program, combinators.Branch):
            return named | {"branch": self._branch(program, here)}
        if isinstance(program, combinators.Apply):
            function = program.function
            tool = function.form.form() if isinstance(function, UseTool) else self._function(function, here + "apply")
            return named | {"apply": tool}
        (part,) = program.parts.values()
        form: Form = {"program": self._part(part, here)}
        if isinstance(program, combinators.Map):
            form |= {} if program.concurrency is None else {"concurrency": program.concurrency}
            form |= {} if program.on_unsolved == "error" else {"on_unsolved": program.on_unsolved}
            return named | {"map": form}
        if isinstance(program, combinators.Loop):
            until = program.until
            said = until.rule.form() if isinstance(until, HoldsOf) else self._function(until, here + "until")
            return named | {"loop": form | {"until": said, "max_rounds": program.max_rounds}}
        if isinstance(program, combinators.Reduce):
            form |= {"associative": True} if program.associative else {}
            form |= {} if program.initial is None else {"initial": self._value(program.initial, here + "initial")}
            return named | {"reduce": form}
        if isinstance(program, combinators.Vote):
            form["num_samples"] = program.num_samples
            if program.stopping is not None:
                form["stopping"] = self._try(lambda: form_of(program.stopping, stopping_form()), here + "stopping")
            if program.canonical is not canonical_answer:
                form["canonical"] = self._function(program.canonical, here + "canonical")
            return named | {"vote": form}
        self.faults.append(f"{here}{type(program).__name__} is no combinator of llmprog, and has no written form")
        return named

    def _join(self, join: Callable[..., Any] | None, where: str) -> Form:
        if join is None:
            return {}
        return {"join": join.template if isinstance(join, JoinAnswers) else self._function(join, where + "join")}

    def _branch(self, program: combinators.Branch, where: str) -> Form:
        on = program.on
        form: Form = {}
        if isinstance(on, Program):
            form["ask"] = self._part(on, where)
        else:
            form["on"] = on.form.form() if isinstance(on, KeyOf) else self._function(on, where + "on")
        form["cases"] = {}
        for key, part in program.cases.items():
            if not isinstance(key, str):
                self.faults.append(f"{where}the key {key!r} of a case is no text; keys in files are texts")
            form["cases"][str(key)] = self._part(part, where)
        if program.otherwise is not None:
            form["otherwise"] = self._part(program.otherwise, where)
        return form

    # ---------------------------------------------------------------------------------------------- values

    def _function(self, function: Callable[..., Any], where: str) -> Form:
        return {"function": self._try(lambda: name_of(function), where)}

    def _value(self, value: Any, where: str) -> Any:
        if value is not None and not isinstance(value, bool | int | float | str):
            self.faults.append(f"{where}={value!r:.80} is no text, number or bool, and cannot be written")
        return value

    def _try(self, write: Callable[[], Any], where: str) -> Any:
        try:
            return write()
        except OptionError as error:
            self.faults.append(f"{where}: {error}")
            return None


def _registered(program: Program) -> str | None:
    """The name of the registered program that ``program`` is, made with its defaults."""
    for name in catalog.names():
        if name != program.name:
            continue
        try:
            same = catalog.find(name).build()
        except (LLMProgError, TypeError):
            return None  # it cannot be made without parameters
        if compile_program(same).hash == compile_program(program).hash:
            return name
    return None


def _into(function: ParseInto) -> Any:
    change = function.change
    into: Form = {
        name: {"append": source} if is_appended else source
        for (name, _), source, is_appended in zip(change.fields, change.sources, change.appends, strict=True)
    }
    return next(iter(into)) if list(into.values()) == ["value"] else into


def _sampling(params: SamplingParams) -> Form:
    form: Form = {}
    for name, value in _changed(params):
        if name == "guided":
            form["guided"] = _guided(value)
        else:
            form[name] = list(value) if isinstance(value, tuple) else value
    return form


def _changed(params: SamplingParams) -> Iterator[tuple[str, Any]]:
    for f in dataclasses.fields(params):
        value = getattr(params, f.name)
        if value != f.default:
            yield f.name, value


def _guided(guided: Guided) -> Form:
    if isinstance(guided, JsonSchema):
        return {"json": json.loads(guided.schema)}
    if isinstance(guided, Regex):
        return {"regex": guided.pattern}
    return {"choices": list(guided.options)} if isinstance(guided, Choices) else {}


def _plain(value: Any) -> Any:
    """A default as it is written: what is no whole number, as the text of a fraction."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str):
        return value
    return int(value) if value.denominator == 1 else str(value)
