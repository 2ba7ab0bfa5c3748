"""What functions say they take and give, read from their annotations, and whether one fits the other.

What is not annotated, or annotated in a way that says nothing of values, is not known: ``typing.Any`` stands for it,
and it fits everything.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

_ABSTRACT = ("collections.abc", "typing")
_TEXTS = (str, bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a program takes and gives, as type hints.

    Attributes:
        takes: The input has to fit each of these; empty where nothing is known.
        gives: The answer's type; ``Any`` where it is not known.
    """

    takes: tuple[Any, ...] = ()
    gives: Any = Any

    def refusal(self, given: Any) -> Any:
        """The first of ``takes`` that ``given`` does not fit, or ``None``."""
        return next((wanted for wanted in self.takes if not fits(given, wanted)), None)


# ------------------------------------------------------------------------------------ what functions say


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function or callable object; what cannot be resolved is left out."""
    return _resolved(function if inspect.isroutine(function) else type(function).__call__)


def _resolved(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}  # annotations that cannot be resolved are not checked


def taken(function: Callable[..., Any]) -> Any:
    """The type of a function's first parameter; of a class, of its constructor's."""
    try:
        first = next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):
        return Any
    return hints_of_parameters(function).get(first, Any) if first else Any


def hints_of_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what a function is called with; of a class, those of its fields and of its constructor."""
    if isinstance(function, type):
        return _resolved(function) | _resolved(vars(function).get("__init__"))
    return hints_of(function)


def returned(function: Callable[..., Any]) -> Any:
    """The type of what a function returns; a class returns itself."""
    return function if isinstance(function, type) else hints_of(function).get("return", Any)


def state_taken(function: Callable[..., Any]) -> type | None:
    """The state type that a node's function takes, if it names a class."""
    return as_class(taken(function))


def state_made(function: Callable[..., Any]) -> type | None:
    """The state type that a generator's return annotation promises, if it names one."""
    hint = hints_of(function).get("return")
    members = [m for m in union_members(hint) if m is not type(None)]
    if len(members) != 1:
        return None
    origin, args = typing.get_origin(members[0]), typing.get_args(members[0])
    if (
        origin is not None
        and isinstance(origin, type)
        and issubclass(origin, collections.abc.Iterable | collections.abc.AsyncIterable)
    ):
        return as_class(args[0]) if args else None
    if members[0] in (list, tuple, set, frozenset) or getattr(members[0], "__module__", "") in _ABSTRACT:
        return None  # several states of an unknown type
    return as_class(members[0])


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def as_class(hint: Any) -> type | None:
    """A class that ``issubclass`` can use, or ``None`` for anything looser (unions, generics, Any)."""
    if isinstance(hint, type) and typing.get_origin(hint) is None and hint not in (object, Any):
        return hint
    return None


# --------------------------------------------------------------------------------------- what fits what


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value of type ``given`` may be handed to what wants ``wanted``; ``True`` where that cannot be told.

    ``None`` among the members of ``given`` is left aside: a program whose answer is ``None`` is not solved, and hands
    nothing on. A text does not fit a collection of texts, though Python iterates over its characters.
    """
    given, wanted = _bare(given), _bare(wanted)
    if _is_unknown(given) or _is_unknown(wanted):
        return True
    members = [m for m in union_members(given) if m is not type(None)]
    if len(members) != 1:
        return all(fits(member, wanted) for member in members)
    given = members[0]
    choices = union_members(wanted)
    if len(choices) > 1:
        return any(fits(given, choice) for choice in choices)
    if typing.get_origin(given) is typing.Literal:
        if typing.get_origin(wanted) is typing.Literal:
            return set(typing.get_args(given)) <= set(typing.get_args(wanted))
        return all(fits(type(value), wanted) for value in typing.get_args(given))
    if typing.get_origin(wanted) is typing.Literal:
        return any(fits(given, type(value)) for value in typing.get_args(wanted))
    outer, inner = typing.get_origin(given) or given, typing.get_origin(wanted) or wanted
    if not isinstance(outer, type) or not isinstance(inner, type):
        return True
    return _is_kind_of(outer, inner) and _arguments_fit(given, wanted)


def _bare(hint: Any) -> Any:
    """``hint`` without ``Annotated``, ``NewType`` and names of types around it."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def _is_unknown(hint: Any) -> bool:
    return hint in (Any, object, None) or isinstance(hint, str | typing.TypeVar | typing.ForwardRef)


def _is_kind_of(given: type, wanted: type) -> bool:
    if (given, wanted) in ((int, float), (int, complex), (float, complex)):
        return True  # the numeric tower of PEP 484
    if issubclass(given, _TEXTS) and wanted.__module__ == "collections.abc":
        return wanted is collections.abc.Hashable
    try:
        return issubclass(given, wanted)
    except TypeError:
        return True  # a protocol that cannot be checked without a value


def _arguments_fit(given: Any, wanted: Any) -> bool:
    have, want = typing.get_args(given), typing.get_args(wanted)
    if not have or not want:
        return True
    many_given, many_wanted = have[-1] is Ellipsis, want[-1] is Ellipsis
    if typing.get_origin(given) is tuple and typing.get_origin(wanted) is tuple and not many_given and not many_wanted:
        return len(have) == len(want) and all(map(fits, have, want))
    if typing.get_origin(given) is tuple:  # of any length, or handed to what wants a collection
        items = have[:1] if many_given else have
        wishes = want[:1] if many_wanted or typing.get_origin(wanted) is not tuple else want
        return all(fits(item, wish) for item in items for wish in wishes)
    return len(have) != len(want) or all(map(fits, have, want))


def hint_name(hint: Any) -> str:
    """A type hint as people write it."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    members = union_members(hint)
    if len(members) > 1:
        return " | ".join("None" if member is type(None) else hint_name(member) for member in members)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(origin, type) and args:
        shown = ("..." if arg is Ellipsis else hint_name(arg) for arg in args)
        return f"{origin.__name__}[{', '.join(shown)}]"
    return str(hint).replace("typing.", "")


def one_of(hints: Iterable[Any]) -> Any:
    """The union of type hints; not known where one of them is not."""
    known = list(hints)
    if not known or any(_is_unknown(hint) for hint in known):
        return Any
    union = known[0]
    for hint in known[1:]:
        union = typing.Union[union, hint]  # noqa: UP007 - made at run time, also of hints that know no "|"
    return union


def many_of(hint: Any) -> Any:
    """The type of anything that holds values of a type."""
    return types.GenericAlias(collections.abc.Iterable, (hint,))


def list_of(hint: Any) -> Any:
    """The type of lists of a type."""
    return types.GenericAlias(list, (hint,))


def pair_of(first: Any, second: Any) -> Any:
    """The type of a tuple of two."""
    return types.GenericAlias(tuple, (first, second))
