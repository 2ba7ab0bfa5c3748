"""What fits what, as far as annotations say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypeVar, Union

import pytest

from llmprog.signatures import fits, hint_name, one_of, returned, taken

T = TypeVar("T")
Name = NewType("Name", str)


class Sized(Protocol):
    size: int


@pytest.mark.parametrize(
    ("given", "wanted", "does"),
    [
        (Any, int, True), (int, Any, True), (T, int, True), (int, T, True), ("int", str, True),
        (Name, str, True), (Name, int, False), (Annotated[int, "cm"], str, False), (Annotated[int, "cm"], float, True),
        (Literal["a"], Literal["a", "b"], True), (Literal["a", "c"], Literal["a", "b"], False),
        (Literal["a"], str, True),
        (Literal["a"], int, False), (str, Literal["a"], True), (int, Literal["a"], False),
        (Union[int, str], Union[str, int, bytes], True), (Union[int, str], Union[int, bytes], False),  # noqa: UP007 - both spellings
        (None | str, str, True), (type(None), str, True), (int, Sized, True), (str, Hashable, True),
        (str, Sequence[str], False), (str, Sequence, False), (list[str], Sequence[str], True),
        (list[str], Mapping, False),
        (dict[str, list[int]], Mapping[str, list[str]], False), (list[Any], list[int], True),
        (Callable[[int], int], int, False), (list, tuple, False), (tuple[int, ...], Iterable[str], False),
    ],
)  # fmt: skip
def test_what_fits(given, wanted, does):
    assert fits(given, wanted) is does


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"), (list[str], "list[str]"), (tuple[int, ...], "tuple[int, ...]"), (int | None, "int | None"),
        (dict[str, list[int]], "dict[str, list[int]]"), (Any, "Any"), (Literal["a"], "Literal['a']"),
    ],
)  # fmt: skip
def test_hints_are_written_as_people_write_them(hint, name):
    assert hint_name(hint) == name


def test_functions_classes_and_objects_say_what_they_take_and_give():
    class Box:
        def __init__(self, size: int) -> None:
            self.size = size

        def __call__(self, text: str) -> bytes:
            return text.encode()

    def unresolved(value: NoSuchName) -> int:  # noqa: F821 - that is the point
        return 1

    assert (taken(Box), returned(Box)) == (int, Box)
    assert (taken(Box(1)), returned(Box(1))) == (str, bytes)
    assert (taken(unresolved), returned(unresolved)) == (Any, Any)
    assert (taken(len), taken(lambda: 1), taken(int)) == (Any, Any, Any)


def test_a_union_of_types_is_known_if_all_are():
    assert one_of([int, str, int]) == int | str
    assert one_of([int, Any]) is Any
    assert one_of([]) is Any
