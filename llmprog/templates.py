r"""Prompt templates over a state's fields: ``"Input: {left}\n"``.

Only plain names are replaced (no attribute access, no indexing, no conversions), so a template
cannot reach into an object. ``{{`` and ``}}`` are literal braces.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

from llmprog.errors import DeclarationError
from llmprog.types import Prompt, Template


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What a generator's prompt may use beside the state, where the controller has something to say.

    A template uses it as ``{hint}`` and ``{dialogue}``, which are empty under controllers that give no hints; a field
    of the state with such a name comes first. A prompt function with a second required parameter is called with it.

    Attributes:
        hint: What to do differently now.
        dialogue: What was said before and what became of it.
    """

    hint: str = ""
    dialogue: str = ""


NO_HINT = Hint()
HINT_FIELDS = tuple(field.name for field in dataclasses.fields(Hint))


def field_names(template: str) -> tuple[str, ...]:
    """The field names a template uses, in order of first use.

    Raises:
        DeclarationError: A brace is unbalanced, or a field is more than a plain name.
    """
    names: dict[str, None] = {}
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DeclarationError(
            f"template {_excerpt(template)}: {error}; write {{{{ and }}}} for literal braces"
        ) from error
    for _, name, spec, conversion in pieces:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise DeclarationError(
                f"template {_excerpt(template)}: field {{{name}{'!' + conversion if conversion else ''}"
                f"{':' + spec if spec else ''}}} is not a plain name; compute it as a property of the state instead"
            )
        names[name] = None
    return tuple(names)


def state_fields(state_type: type) -> tuple[str, ...] | None:
    """Names a template may use for states of this type, or ``None`` where they cannot be known beforehand."""
    if dataclasses.is_dataclass(state_type):
        names = [f.name for f in dataclasses.fields(state_type)]
    elif hasattr(state_type, "model_fields"):
        names = list(state_type.model_fields)
    elif hasattr(state_type, "_fields"):
        names = list(state_type._fields)
    elif state_type in (str, int, float, tuple, frozenset):
        names = []
    else:
        return None
    names += [n for n in dir(state_type) if not n.startswith("_") and _is_property(state_type, n)]
    return tuple(dict.fromkeys([*names, "state"]))


def _is_property(owner: type, name: str) -> bool:
    found = next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), None)
    return isinstance(found, property) or type(found).__name__ == "cached_property"


def render(template: str, values: Mapping[str, Any] | Callable[[str], Any]) -> str:
    """The template with each field replaced by ``format_value`` of its value."""
    lookup = values if callable(values) else values.__getitem__
    pieces: list[str] = []
    for literal, name in _parsed(template):
        pieces.append(literal)
        if name is not None:
            pieces.append(format_value(lookup(name)))
    return "".join(pieces)


@functools.lru_cache(maxsize=256)
def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(template))


_UNORDERED = (frozenset, set)
_MANY = (Sequence, *_UNORDERED)


def format_value(value: Any) -> str:
    """A field as prompt text: sequences of numbers joined by spaces, other sequences by line breaks."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, _MANY):
        items: Iterable[Any] = sorted(value, key=str) if isinstance(value, _UNORDERED) else value
        if all(isinstance(item, Number) for item in value):
            return " ".join(map(str, items))
        return "\n".join([format_value(item) for item in items])
    return str(value)


def shown_value(value: Any) -> str:
    """``format_value`` for records and people: where the value's class fails to write it, that is what it says."""
    try:
        return format_value(value)
    except Exception as error:  # noqa: BLE001 - any error of a user's class: looking at a value ends no run
        return f"<{type(value).__name__}, which cannot be written: {type(error).__name__}>"


def prompt_for_state(
    source: str | Callable[..., str | Prompt | Template], state: Any, hint: Hint | None = None
) -> Prompt | Template:
    """The prompt a node asks for ``state``.

    Args:
        source: The node's prompt.
        state: What it is about.
        hint: What the controller has to say; ``None`` for a checker, which is given no hints.

    Raises:
        DeclarationError: The template names a field that the state does not have.
    """
    if not isinstance(source, str):
        return _as_prompt(source(state) if hint is None or not takes_hint(source) else source(state, hint))

    def lookup(name: str) -> Any:
        if hasattr(state, name):
            return getattr(state, name)
        if name == "state":
            return state
        if hint is not None and name in HINT_FIELDS:
            return getattr(hint, name)
        known = state_fields(type(state)) or ("state",)
        raise DeclarationError(
            f"template {_excerpt(source)}: no field {name!r} in {type(state).__name__}; "
            f"known fields: {', '.join(known)}"
        )

    return Prompt.from_text(render(source, lookup))


def takes_hint(function: Callable[..., Any]) -> bool:
    """Whether a prompt function wants the controller's ``Hint`` beside the state."""
    try:
        return _num_required(function) == 2
    except TypeError:  # a callable object that cannot be hashed
        return _num_required.__wrapped__(function) == 2


@functools.lru_cache(maxsize=256)
def _num_required(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


VOTE_FIELDS = ("candidates", "num_candidates")
PAIRWISE_FIELDS = ("first", "second")


def prompt_for_vote(source: str | Callable[..., str | Prompt | Template], states: Sequence[Any]) -> Prompt | Template:
    """The prompt of a vote: candidates are numbered from 1 in the order given."""
    if not isinstance(source, str):
        return _as_prompt(source(tuple(states)))
    listed = "\n".join(f"Choice {i}:\n{format_value(state)}" for i, state in enumerate(states, 1))
    return Prompt.from_text(render(source, {"candidates": listed, "num_candidates": len(states)}))


def prompt_for_pair(source: str | Callable[..., str | Prompt | Template], first: Any, second: Any) -> Prompt | Template:
    """The prompt of a pairwise comparison."""
    if not isinstance(source, str):
        return _as_prompt(source(first, second))
    return Prompt.from_text(render(source, {"first": first, "second": second}))


def _as_prompt(made: str | Prompt | Template) -> Prompt | Template:
    if isinstance(made, str):
        return Prompt.from_text(made)
    if isinstance(made, Prompt | Template):
        return made
    raise DeclarationError(f"a prompt function returned {made!r}; allowed: str, Prompt or Template")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
