"""What a reply states as its answer: after ``Answer:``, in a box, its last number, a letter, a pattern, a JSON path.

Every reader is total: any text gives the answer as text, or ``None`` where it states none. What the answer is worth is
for others to say; votes and rewards compare answers in canonical form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from llmprog.arithmetic import canonical_number
from llmprog.errors import OptionError
from llmprog.parsers import json_at, json_in, json_steps
from llmprog.programs.catalog import for_method, one_of

AnswerForm = Literal["text", "number", "choice", "regex", "json"]
Reader = Callable[[str], str | None]

_MAX_REPLY = 1_000_000  # the end of a longer reply is what is read
_MAX_ANSWER = 4096  # what is longer is no answer
_MAX_WRAPPERS = 16  # around one another
_TIMEOUT_S = 0.25  # of a search for a pattern

# Markdown around the words (**Answer:** 42, ### Final answer: 42, > *Answer*: 42) is no part of the answer.
_MARKS = r"[\s*_#>`~-]*"
_STATED = re.compile(
    rf"^{_MARKS}(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?answer{_MARKS}[:：=](?P<answer>.*)$", re.IGNORECASE
)
_SENTENCE = re.compile(r"\banswer\b[^.:=?!]{0,80}?\s(?:is|was|=)\s*:?\s+(?P<answer>\S.*)$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"[\s.…_?]*|[<\[(].*\banswer\b.*[>\])]", re.IGNORECASE)
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\{|\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{(?P<inner>[^{}]*)\}")
_WRAPPERS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"),
             (r"\[", r"\]"), ('"', '"'), ("“", "”"))  # fmt: skip
_TAGGED = re.compile(r"<answer>(?P<answer>[^<]*)</answer>", re.IGNORECASE)
_NUMBER = re.compile(r"[-−+]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:[).:].*)?", re.DOTALL)


def stated_answer(reply: str) -> str | None:
    r"""The answer that a reply states, ``None`` if it states none.

    It is what the last ``<answer>…</answer>`` holds; else what follows ``Answer:`` on the last line that begins so, or
    the line after it; else the last ``\boxed{…}``; else what follows ``answer is``, or ``answer to … is``, on the last
    line. Markdown, LaTeX and a final full stop around it are dropped.
    """
    tagged = _TAGGED.findall(reply[-_MAX_REPLY:])
    if tagged:
        return _bare(tagged[-1])
    lines = [line.strip() for line in reply[-_MAX_REPLY:].splitlines()]
    lines = [line for line in lines if line and line.strip("*_#>`~- $[]\\")]
    for place in range(len(lines) - 1, -1, -1):
        if found := _STATED.match(lines[place]):
            below = lines[place + 1] if place + 1 < len(lines) else ""
            return _bare(found["answer"]) or _bare(below)
    boxed = [match for line in lines for match in [_boxed(line)] if match is not None]
    if boxed:
        return _bare(boxed[-1])
    found = _SENTENCE.search(lines[-1]) if lines else None
    return _bare(found["answer"]) if found else None


def _bare(text: str) -> str | None:
    """An answer without what surrounds it; ``None`` where nothing is left, or only the form that was to be filled."""
    text = text.strip()
    if len(text) > _MAX_ANSWER:
        return None
    for _ in range(_MAX_WRAPPERS):
        inner = _unwrapped(text).strip()
        if inner == text:
            break
        text = inner
    return None if _PLACEHOLDER.fullmatch(text) else text


def _unwrapped(text: str) -> str:
    """``text`` without the outermost of what surrounds it."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    if found := _TEXT.fullmatch(text):
        return found["inner"]
    if text.endswith(".") and not text.endswith(".."):
        return text[:-1]
    for start, end in _WRAPPERS:
        if len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end):
            inside = text[len(start) : -len(end)]
            if start not in inside and end not in inside:
                return inside
    # What was opened before the word "Answer" is closed after it, as in **Answer:** 42 and **Answer: 42**.
    for mark in ("**", "__", "*", "_", "`"):
        if text.count(mark) == 1:
            return text.removeprefix(mark).removesuffix(mark)
    return text


def _boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` of a text holds."""
    opened: list[int] = []  # where what a box holds begins; -1 for other braces
    last = None
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if match["box"] else -1)
        elif opened and (start := opened.pop()) >= 0:
            last = (start, match.start())
    return None if last is None else text[slice(*last)]


def stated_number(reply: str) -> str | None:
    """The last number of the answer that a reply states, or of its last line where it states none."""
    stated = stated_answer(reply)
    if stated is not None and canonical_number(stated) is not None:
        return stated
    lines = reply.split("\n")
    text = stated if stated is not None else next((line for line in reversed(lines) if line.strip()), "")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def stated_choice(reply: str) -> str | None:
    """The letter of the choice that a reply states: ``B`` for ``B``, ``(b)`` and ``B. Paris``."""
    found = _CHOICE.fullmatch(stated_answer(reply) or "")
    return found[1].upper() if found else None


def last_match(reply: str, pattern: str) -> str | None:
    """What the last match of a regular expression holds: its first group, or all of it where it has none.

    ``None`` where nothing matches, the group took no part, or the search takes over a quarter of a second.

    Raises:
        OptionError: ``pattern`` is no regular expression.
    """
    last = None
    try:
        for match in _compiled(pattern).finditer(reply[-_MAX_REPLY:], timeout=_TIMEOUT_S):
            last = match
    except TimeoutError:
        return None
    if last is None:
        return None
    found: str | None = last[1] if last.re.groups else last[0]
    return found.strip() or None if found is not None and len(found) <= _MAX_ANSWER else None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    import regex  # not re: it has a time limit

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise OptionError(f"pattern={pattern!r}: not a regular expression: {error}") from error


def stated_json(reply: str, path: str) -> str | None:
    """The value at a path such as ``answer``, ``$.result.value`` or ``steps[0].n`` of the last JSON in a reply.

    JSON may stand anywhere: alone, in a code fence, among words. Of several values at ``[*]`` the last counts; a text
    is given as it is, any other value as JSON; ``null`` is no answer.

    Raises:
        OptionError: ``path`` is none.
    """
    found = [value for value in json_at(json_in(reply), _path_steps(path)) if value is not None]
    if not found:
        return None
    text = found[-1] if isinstance(found[-1], str) else json.dumps(found[-1], ensure_ascii=False)
    return text.strip() or None if len(text) <= _MAX_ANSWER else None


@lru_cache(maxsize=64)
def _path_steps(path: str) -> tuple[str | int | None, ...]:
    steps = json_steps(path.strip())
    if steps is None:
        raise OptionError(f"path={path!r}; allowed are names and places, such as answer, result.value or steps[0].n")
    return tuple(steps)


def json_form(path: str, value: str) -> str:
    """JSON that has a text at a path: what a model is shown to answer by."""
    built: Any = value
    for step in reversed(_path_steps(path)):
        built = {step: built} if isinstance(step, str) else [built]
    return json.dumps(built, ensure_ascii=False)


_STATED_FORMS: Mapping[str, Reader] = {"text": stated_answer, "number": stated_number, "choice": stated_choice}


def answer_reader(answer: AnswerForm, *, pattern: str | None = None, path: str | None = None) -> Reader:
    """What reads answers of a form from replies, as programs' settings name it.

    Args:
        answer: ``text``: all that the reply states as its answer; ``number``: the last number in it; ``choice``: its
            letter; ``regex``: the last match of ``pattern``; ``json``: the value at ``path``.
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the last JSON of the reply (json; default ``answer``).

    Raises:
        OptionError: There is no such form, or its pattern or path is missing, malformed or of no effect.
    """
    one_of("answer", answer, AnswerForm)
    wanted = for_method("pattern", pattern, answer, {"regex": ""}, chooser="answer")
    place = for_method("path", path, answer, {"json": "answer"}, chooser="answer")
    if place is not None:
        _path_steps(place)  # what is malformed is told before anything is asked

        def read_json(reply: str) -> str | None:
            return stated_json(reply, place)

        return read_json
    if wanted is None:
        return _STATED_FORMS[answer]
    if not wanted:
        raise OptionError("answer='regex' needs pattern=, such as pattern='Result: (.*)'")
    _compiled(wanted)

    def read_match(reply: str) -> str | None:
        return last_match(reply, wanted)

    return read_match
