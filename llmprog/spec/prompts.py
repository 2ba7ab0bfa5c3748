"""Prompts of program files: a template, or messages with examples, the beginning of the reply, and gaps to fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from llmprog.spec.outside import Outside
from llmprog.spec.parsers import FunctionName
from llmprog.spec.reading import Part, Scope, Text, Whole, as_tuple
from llmprog.templates import HINT_FIELDS, PAIRWISE_FIELDS, VOTE_FIELDS, Hint, format_value, render
from llmprog.types import Blank, Message, Prompt, Template

About: TypeAlias = Literal["generator", "checker", "vote", "pairwise", "aggregate"]
"""What a prompt is about, which decides what its templates may use."""


class Example(Part):
    """An exchange that shows the model how it is done."""

    user: Text
    assistant: Text


class Gap(Part):
    """A gap of so many tokens that the model fills in."""

    blank: Whole = Field(ge=1, le=100_000)


FillPart: TypeAlias = Text | Gap


class PromptForm(Part):
    """What a model is asked. A text alone is the user's message."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    system: Text | None = Field(None, description="The system message.")
    examples: Annotated[tuple[Example, ...], BeforeValidator(as_tuple)] = ()
    user: Text | None = Field(None, description="The message that asks.")
    prefix: Text = Field("", description="What the reply begins with.")
    fill: Annotated[tuple[FillPart, ...], BeforeValidator(as_tuple)] = Field(
        (), description="A text with gaps that the model fills in, for backends that can."
    )
    function: Text | None = Field(None, description="A Python function that makes the prompt.")

    TEMPLATES: ClassVar[tuple[str, ...]] = ("system", "user", "prefix")

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"user": data} if isinstance(data, str) else data

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if "function" in data:
            FunctionName.check(data, scope)
            if len(data) > 1:
                scope.report("a function makes all of the prompt; give nothing beside it", "function")
        elif "user" not in data:
            scope.report("no message; give user: the text that asks")
        fill = data.get("fill")
        if isinstance(fill, list) and not any(isinstance(part, dict) for part in fill):
            scope.report("no gap; give one as {blank: 8}, a number of tokens", "fill")

    @property
    def is_plain(self) -> bool:
        """Whether it is the user's message alone."""
        return self.user is not None and all(
            getattr(self, name) == f.default for name, f in type(self).model_fields.items() if name != "user"
        )

    def source(self, about: About, outside: Outside) -> Any:
        """It as the prompt of a node."""
        if self.function is not None:
            return outside.find(self.function)
        if self.is_plain:
            return self.user
        return _SOURCES[about](self)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.user if self.is_plain else handler(self)

    @property
    def text(self) -> str:
        """It for people: each template behind the role it is for."""
        lines = [f"system: {self.system}"] if self.system is not None else []
        lines += [f"user: {example.user}\nassistant: {example.assistant}" for example in self.examples]
        lines.append(f"user: {self.user}")
        if self.prefix:
            lines.append(f"assistant: {self.prefix}…")
        if self.fill:
            gaps = (f"<{part.blank} tokens>" if isinstance(part, Gap) else part for part in self.fill)
            lines.append(f"fill: {''.join(gaps)}")
        return "\n".join(lines)

    def rendered(self, lookup: Callable[[str], Any]) -> Prompt | Template:
        """The prompt for what ``lookup`` knows."""
        messages = [] if self.system is None else [Message("system", render(self.system, lookup))]
        for example in self.examples:
            messages.append(Message("user", render(example.user, lookup)))
            messages.append(Message("assistant", render(example.assistant, lookup)))
        messages.append(Message("user", render(self.user or "", lookup)))
        prompt = Prompt(tuple(messages), render(self.prefix, lookup))
        if not self.fill:
            return prompt
        parts = (Blank(part.blank) if isinstance(part, Gap) else render(part, lookup) for part in self.fill)
        return Template(prompt, tuple(parts))


def check_templates(prompt: Any, about: About, scope: Scope) -> None:
    """Report what is wrong with the templates of the prompt of a node, as it was written."""
    known = known_names(about, scope.known_fields)
    if not isinstance(prompt, dict):
        scope.check_template(prompt, known, "prompt")
        return
    for name in PromptForm.TEMPLATES:
        scope.check_template(prompt.get(name), known, "prompt", name)
    for name in ("examples", "fill"):
        parts = prompt.get(name)
        for place, part in enumerate(parts if isinstance(parts, list) else ()):
            texts = part if isinstance(part, dict) else {}
            for key in ("user", "assistant"):
                scope.check_template(texts.get(key), known, "prompt", name, place, key)
            scope.check_template(part, known, "prompt", name, place)


def known_names(about: About, fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """What the templates of a prompt may use, where a state has ``fields``; ``None`` where that is not known."""
    if about in ("vote", "aggregate"):
        return VOTE_FIELDS
    if about == "pairwise":
        return PAIRWISE_FIELDS
    if fields is None:
        return None
    return (*fields, "state", *(HINT_FIELDS if about == "generator" else ()))


@dataclass(frozen=True, slots=True)
class WrittenPrompt:
    """The function that stands for a prompt that was written in a file."""

    form: PromptForm

    @property
    def text(self) -> str:
        """The prompt for people."""
        return self.form.text


@dataclass(frozen=True, slots=True)
class PromptOfState(WrittenPrompt):
    """The prompt of a checker, of its state."""

    def __call__(self, state: Any) -> Prompt | Template:
        return self.form.rendered(lambda name: state if name == "state" else getattr(state, name))


@dataclass(frozen=True, slots=True)
class PromptOfStateAndHint(WrittenPrompt):
    """The prompt of a generator, of its state and of what the controller has to say."""

    def __call__(self, state: Any, hint: Hint) -> Prompt | Template:
        def lookup(name: str) -> Any:
            if name == "state":
                return state
            return getattr(hint if name in HINT_FIELDS and not hasattr(state, name) else state, name)

        return self.form.rendered(lookup)


@dataclass(frozen=True, slots=True)
class PromptOfMany(WrittenPrompt):
    """The prompt of a vote, or of a generator that aggregates, of all its states."""

    def __call__(self, states: tuple[Any, ...]) -> Prompt | Template:
        listed = "\n".join(f"Choice {i}:\n{format_value(state)}" for i, state in enumerate(states, 1))
        return self.form.rendered({"candidates": listed, "num_candidates": len(states)}.__getitem__)


@dataclass(frozen=True, slots=True)
class PromptOfTwo(WrittenPrompt):
    """The prompt of a comparison, of both its states."""

    def __call__(self, first: Any, second: Any) -> Prompt | Template:
        return self.form.rendered({"first": first, "second": second}.__getitem__)


_SOURCES: Mapping[About, Callable[[PromptForm], Callable[..., Prompt | Template]]] = {
    "generator": PromptOfStateAndHint,
    "checker": PromptOfState,
    "vote": PromptOfMany,
    "aggregate": PromptOfMany,
    "pairwise": PromptOfTwo,
}
