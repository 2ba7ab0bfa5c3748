"""Regular expressions of program files: checked when they are read, and never run for long on what a model wrote."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import regex

from llmprog.spec.reading import Text

if TYPE_CHECKING:
    from llmprog.spec.reading import Scope

Pattern = Text

_TIMEOUT_S = 0.25
_MAX_MATCHES = 1_000
_MAX_TEXT = 200_000  # the end of a longer text is what is read


def check_pattern(pattern: Any, scope: Scope, key: str = "pattern") -> None:
    """Report a pattern that is no regular expression."""
    if isinstance(pattern, str):
        try:
            _compiled(pattern, ignore_case=False)
        except regex.error as error:
            scope.report(f"{pattern!r} is no regular expression: {error}", key)


def group_names(pattern: str) -> tuple[str, ...]:
    """The names of a pattern's groups."""
    try:
        return tuple(_compiled(pattern, ignore_case=False).groupindex)
    except regex.error:
        return ()


def matches(pattern: str, text: str, *, ignore_case: bool) -> list[regex.Match[str]]:
    """All matches in a text, ``^`` and ``$`` at every line; those so far where finding them takes too long."""
    found: list[regex.Match[str]] = []
    try:
        for match in _compiled(pattern, ignore_case=ignore_case).finditer(text[-_MAX_TEXT:], timeout=_TIMEOUT_S):
            found.append(match)
            if len(found) == _MAX_MATCHES:
                break
    except TimeoutError:
        return found
    return found


def is_matched(pattern: str, text: str, *, whole: bool, ignore_case: bool) -> bool:
    """Whether a pattern matches a text, as a whole or somewhere in it; not where finding out takes too long."""
    compiled = _compiled(pattern, ignore_case=ignore_case)
    try:
        search = compiled.fullmatch if whole else compiled.search
        return search(text[-_MAX_TEXT:], timeout=_TIMEOUT_S) is not None
    except TimeoutError:
        return False


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str, *, ignore_case: bool) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0))
