"""Programs that join others, and programs that are named, as a file writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from llmprog import combinators
from llmprog.errors import LLMProgError
from llmprog.program import Program
from llmprog.programs.catalog import parse_setting
from llmprog.spec.controllers import MadeChoice, stopping_form
from llmprog.spec.headings import Named
from llmprog.spec.outside import Outside
from llmprog.spec.parsers import FunctionName, ParserForm
from llmprog.spec.reading import Fields, Flag, Part, Scalar, Scope, Text, Whole, as_tuple, did_you_mean
from llmprog.spec.rules import VALUE, ConditionForm
from llmprog.spec.searches import SearchForm
from llmprog.spec.tools import HoldsOf, JoinAnswers, KeyOf, ToolForm

if TYPE_CHECKING:
    StoppingForm: TypeAlias = MadeChoice
else:
    StoppingForm = stopping_form()


class ReferenceForm(Named):
    """A program by its name: a registered one, or another file; ``set`` gives its parameters."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    program: Text
    set: dict[Text, Scalar] = Field(default_factory=dict, description="Values of the program's parameters.")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"program": data} if isinstance(data, str) else data

    def check_made(self, scope: Scope) -> None:
        if self.name is not None:
            scope.report("a program that is named has its own name; leave this out", "name", at_key=True)
        try:
            entry = scope.outside.program(self.program)
        except LLMProgError as error:
            scope.report(str(error), "program")
            return
        known = list(entry.parameters)
        unknown = [name for name in self.set if name not in known]
        for name in unknown:
            scope.report(
                f"{self.program} has no parameter {name!r}; it has: {', '.join(known) or 'none'}"
                f"{did_you_mean(name, known)}",
                "set", name, at_key=True,
            )  # fmt: skip
        if not unknown:
            try:
                self.build(scope.outside)
            except LLMProgError as error:
                scope.report(str(error), "set" if self.set else "program")

    def build(self, outside: Outside) -> Program:
        entry = outside.program(self.program)
        return entry.build(**{name: parse_setting(entry.parameters[name], value) for name, value in self.set.items()})


class SequenceForm(Named):
    """Programs one after the other: the answer of each is the input of the next."""

    sequence: Annotated[tuple[AnyProgram, ...], BeforeValidator(as_tuple)] = Field(min_length=1)

    def build(self, outside: Outside) -> Program:
        return combinators.Sequence(*(part.build(outside) for part in self.sequence), **self.naming)


class MapParts(Part):
    """What is done with each item of a list."""

    program: AnyProgram
    concurrency: Whole | None = Field(None, description="Items worked on at once.")
    on_unsolved: Literal["error", "skip"] | None = Field("error", description="null keeps an empty place for it.")


class MapForm(Named):
    """A program on each item of a list, side by side; the answers are a list."""

    map: MapParts

    def build(self, outside: Outside) -> Program:
        parts = self.map
        return combinators.Map(
            parts.program.build(outside),
            concurrency=parts.concurrency,
            on_unsolved=parts.on_unsolved,
            **self.naming,
        )


class JoinForm(Part):
    """How answers become one: a template over their names, or a Python function."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    template: Text | None = None
    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"template": data} if isinstance(data, str) else data

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if len(data) != 1:
            scope.report("give a template, or {function: package.module:name}")
        FunctionName.check(data, scope)
        scope.check_template(data.get("template"), scope.known_fields)


class ParallelParts(Part):
    """The programs that share an input, and what becomes of their answers."""

    programs: dict[Text, AnyProgram] = Field(min_length=1)
    join: JoinForm | None = Field(None, description="The answers by name, by default.")

    @classmethod
    def fields_inside(cls, data: Mapping[str, Any], outside: Fields) -> Fields:
        programs = data.get("programs")
        return tuple(programs) if isinstance(programs, dict) else None


class ParallelForm(Named):
    """One input for several programs, side by side."""

    parallel: ParallelParts

    def build(self, outside: Outside) -> Program:
        parts, join = self.parallel, self.parallel.join
        made = None
        if join is not None:
            made = outside.find(join.function) if join.function is not None else JoinAnswers(join.template or "")
        programs = {name: part.build(outside) for name, part in parts.programs.items()}
        return combinators.Parallel(programs, join=made, **self.naming)


class OnForm(ParserForm):
    """What decides where an input goes: what a parser finds in it, or what a Python function returns for it."""

    function: Text | None = Field(None, description="A Python function.")

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        FunctionName.check(data, scope)


class BranchParts(Part):
    """The programs that an input may go to."""

    on: OnForm | None = None
    ask: AnyProgram | None = Field(None, description="A program whose answer decides; in the place of on.")
    cases: dict[Text, AnyProgram] = Field(min_length=1)
    otherwise: AnyProgram | None = None

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if ("on" in data) == ("ask" in data):
            scope.report("give on: a parser of the input, or ask: a program; one of the two")


class BranchForm(Named):
    """The input goes to the program whose key is found for it."""

    branch: BranchParts

    def build(self, outside: Outside) -> Program:
        parts = self.branch
        on: Any
        if parts.ask is not None:
            on = parts.ask.build(outside)
        elif parts.on is not None and parts.on.function is not None:
            on = outside.find(parts.on.function)
        else:
            on = None if parts.on is None else KeyOf(parts.on)
        return combinators.Branch(
            on,
            {key: part.build(outside) for key, part in parts.cases.items()},
            otherwise=None if parts.otherwise is None else parts.otherwise.build(outside),
            **self.naming,
        )


class LoopParts(Part):
    """What is repeated, and until when."""

    program: AnyProgram
    until: ConditionForm = Field(description="A rule about the answer, whose field is called value.")
    max_rounds: Whole

    @classmethod
    def fields_inside(cls, data: Mapping[str, Any], outside: Fields) -> Fields:
        return (VALUE,)


class LoopForm(Named):
    """A program on its own answers, until they will do."""

    loop: LoopParts

    def build(self, outside: Outside) -> Program:
        parts, until = self.loop, self.loop.until
        return combinators.Loop(
            parts.program.build(outside),
            until=HoldsOf(until) if until.function is None else outside.find(until.function),
            max_rounds=parts.max_rounds,
            **self.naming,
        )


class ReduceParts(Part):
    """What makes one of two."""

    program: AnyProgram
    associative: Flag = False
    initial: Scalar = None


class ReduceForm(Named):
    """A list to one answer, two at a time."""

    reduce: ReduceParts

    def build(self, outside: Outside) -> Program:
        parts = self.reduce
        return combinators.Reduce(
            parts.program.build(outside), associative=parts.associative, initial=parts.initial, **self.naming
        )


class VoteParts(Part):
    """What is voted on, and how often."""

    program: AnyProgram
    num_samples: Whole
    stopping: StoppingForm | None = None
    canonical: FunctionName | None = Field(None, description="A Python function: the text an answer is compared by.")


class VoteForm(Named):
    """A program several times on the same input; the answer of most runs counts."""

    vote: VoteParts

    def build(self, outside: Outside) -> Program:
        parts = self.vote
        canonical: dict[str, Any] = {} if parts.canonical is None else {"canonical": parts.canonical.find_in(outside)}
        return combinators.Vote(
            parts.program.build(outside),
            num_samples=parts.num_samples,
            stopping=None if parts.stopping is None else parts.stopping.make(outside),
            **canonical | self.naming,
        )


class ApplyForm(Named):
    """A plain step: a parser, a template, a calculation, or a Python function."""

    apply: ToolForm

    def build(self, outside: Outside) -> Program:
        name = self.name if self.name is not None else "" if self.apply.function else self.apply.chosen_name
        return combinators.Apply(self.apply.as_function(outside), name=name)


_KINDS: Mapping[str, type[Named]] = {
    "program": ReferenceForm,
    "sequence": SequenceForm,
    "map": MapForm,
    "parallel": ParallelForm,
    "branch": BranchForm,
    "loop": LoopForm,
    "reduce": ReduceForm,
    "vote": VoteForm,
    "apply": ApplyForm,
}


def kind_of(data: Any) -> str:
    """Which kind of program something is, by its keys; a search, where none of the others' is there.

    Kinds are in angle brackets, so that none is taken for a key where a fault is looked for.
    """
    if isinstance(data, str):
        return "<program>"
    return next((f"<{kind}>" for kind in _KINDS if isinstance(data, dict) and kind in data), "<search>")


AnyProgram: TypeAlias = Annotated[
    Annotated[SearchForm, Tag("<search>")]
    | Annotated[ReferenceForm, Tag("<program>")]
    | Annotated[SequenceForm, Tag("<sequence>")]
    | Annotated[MapForm, Tag("<map>")]
    | Annotated[ParallelForm, Tag("<parallel>")]
    | Annotated[BranchForm, Tag("<branch>")]
    | Annotated[LoopForm, Tag("<loop>")]
    | Annotated[ReduceForm, Tag("<reduce>")]
    | Annotated[VoteForm, Tag("<vote>")]
    | Annotated[ApplyForm, Tag("<apply>")],
    Discriminator(kind_of),
]

_PARTS: tuple[type[Part], ...] = (MapParts, ParallelParts, BranchParts, LoopParts, ReduceParts, VoteParts)
for _form in (*_PARTS, *_KINDS.values()):
    _form.model_rebuild()
