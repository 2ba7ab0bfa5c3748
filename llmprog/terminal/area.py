"""The last lines of a terminal, redrawn while runs go on: one place for all of them. What is printed goes above it."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, cast

from rich.console import Console
from rich.text import Text

from llmprog.progress import repeated
from llmprog.terminal.text import fit, plain, write_to

_MAX_LINES = 24
_SECONDS_BETWEEN_DRAWINGS = 0.1
_MAX_UNENDED = 10_000  # characters of a line that is not ended; after so many it is broken
_ERASE_LINE, _UP_AND_ERASE = "\r\x1b[2K", "\x1b[1A\x1b[2K"

# Held while something is written to a terminal, and across a fork. Nobody who holds it waits for another lock: who
# prints or logs holds locks of his own. It may be taken again: a signal's handler prints, too.
_writing = threading.RLock()


class Shown(Protocol):
    """Something that is shown as a few lines."""

    def lines(self, console: Console, width: int, room: int) -> Sequence[Text]:
        """How it stands now.

        Args:
            console: Where it is shown.
            width: Columns; what is wider is cut.
            room: Lines at most, 1 or more; those beyond are left out.
        """
        ...


class LiveArea:
    """The lines at the end of one terminal that are redrawn, from ``begin`` to ``end``.

    Meanwhile whole lines that the program prints, on the screen by ``print`` or by a handler of the root logger, are
    written above them as they are; a line that is not ended yet is the first of those that are redrawn. The cursor is
    never hidden: a process that is killed could not bring it back.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._file = console.file
        # What draws text as the terminal wants it, without a write of its own.
        color = cast("Any", console.color_system)
        self._painter = Console(file=io.StringIO(), force_terminal=True, color_system=color, legacy_windows=False)
        self._members: list[Shown] = []
        self._streams: list[PrintedAbove] = []
        self._width = self._room = 1
        self._lines: list[str] = []  # the members', when they were asked last
        self._drawn: list[str] = []
        self._restore: list[Callable[[], object]] = []
        self._is_drawing = False

    @property
    def is_empty(self) -> bool:
        """Whether it shows nothing."""
        return not self._members

    def add(self, shown: Shown) -> None:
        """Show something below what is shown already."""
        self._members = [*self._members, shown]
        self.draw()

    def remove(self, shown: Shown) -> None:
        """Show it no longer."""
        self._members = [member for member in self._members if member is not shown]
        self.draw()

    def begin(self) -> None:
        """Take the end of the terminal."""
        self._is_drawing = True
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            with suppress(AttributeError, ValueError):  # there is none, or it is closed
                if stream.isatty() and not isinstance(stream, PrintedAbove):
                    self._redirect(name, stream)

    def end(self) -> None:
        """Give it back: nothing of the lines is left, and printing is as it was."""
        with _writing:
            if self._is_drawing:
                write_to(self._file, self._erasure() + "".join(stream.rest for stream in self._streams))
                self._drawn = []
                self._is_drawing = False  # last, so that an end that was interrupted can be made up for
        self.restore()

    def restore(self) -> None:
        """Have printing and logging be as they were, without a word to the terminal."""
        self._is_drawing = False
        for restore in self._restore:
            restore()
        self._restore = []

    def draw(self) -> None:
        """Draw everything anew, as it stands now."""
        self._width = self._console.width - 1  # some terminals go on to the next line once the last column is full
        self._room = max(1, min(_MAX_LINES, self._console.size.height - 1))
        lines = self._rendered()
        with _writing:
            self._lines = lines
            if self._is_drawing:
                self._draw_below("")

    def print_from(self, source: PrintedAbove, text: str) -> None:
        """Write what ``source`` was given: the lines that it ends above those that are redrawn."""
        with _writing:
            if not self._is_drawing:
                source.stream.write(text)
                return
            lines, end, rest = (source.rest + text).rpartition("\n")
            written = rest.rstrip("\r")
            rest = written[written.rfind("\r") + 1 :] + rest[len(written) :][:1]  # the rest has been overwritten
            if len(rest) > _MAX_UNENDED:
                lines, end, rest = lines + end + rest, "\n", ""
            source.rest = rest
            if end:
                self._draw_below(lines + end)

    def _draw_below(self, text: str) -> None:
        """Write text that ends with a line break above the lines; what is not ended is the first of these."""
        erasure = self._erasure()
        unended = (plain(Text.from_ansi(stream.rest.rstrip("\r")).plain) for stream in self._streams if stream.rest)
        self._drawn = [*(fit(Text(rest), self._width).plain for rest in unended if rest), *self._lines][: self._room]
        write_to(self._file, erasure + text + "\n".join(self._drawn))

    def _rendered(self) -> list[str]:
        """The lines of all members, which share the room there is."""
        members, width, left = self._members, self._width, self._room
        found: list[str] = []
        for place, member in enumerate(members):
            room = max(1, left // (len(members) - place))
            lines: Sequence[Text] = [Text("…")]
            with suppress(Exception):  # whatever the texts of a user's states raise: what shows a run must not end it
                lines = member.lines(self._console, width, room)
            for line in lines[: min(room, left)]:
                line.no_wrap = True
                with self._painter.capture() as captured:
                    self._painter.print(fit(line, width), end="", soft_wrap=True)
                found.append(captured.get())
                left -= 1
            if left == 0:
                break
        return found

    def _erasure(self) -> str:
        return _ERASE_LINE + _UP_AND_ERASE * (len(self._drawn) - 1) if self._drawn else ""

    def _redirect(self, name: str, stream: Any) -> None:
        above = PrintedAbove(stream, self)
        self._streams.append(above)

        def restore() -> None:
            if getattr(sys, name) is above:
                setattr(sys, name, stream)
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is above:
                    handler.setStream(stream)

        self._restore.append(restore)
        setattr(sys, name, above)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(above)


class PrintedAbove:
    """A stream of a terminal whose whole lines go above a ``LiveArea`` as long as there is one; else the stream itself.

    Args:
        stream: The terminal's.
        area: The lines that are redrawn on it.

    Attributes:
        stream: As given.
        rest: What is seen of the line that is not ended yet, whole.
    """

    def __init__(self, stream: Any, area: LiveArea) -> None:
        self.stream = stream
        self.rest = ""
        self._area = area

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; returns how many characters that are."""
        self._area.print_from(self, text)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have what was written be seen; a line that is not ended yet is seen when the lines are drawn next."""
        self.stream.flush()


class _Terminals:
    """The areas there are, by the stream they are written to, with what ends each."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.areas: dict[int, tuple[LiveArea, ExitStack]] = {}


_terminals = _Terminals()


@contextmanager
def shown_on(console: Console, shown: Shown) -> Iterator[LiveArea]:
    """Has something shown at the end of a terminal while the block runs, with whatever else is shown there."""
    key = id(console.file)
    with _terminals.lock:
        if key not in _terminals.areas:
            stack = ExitStack()
            _terminals.areas[key] = (stack.enter_context(_opened(console)), stack)
        area, stack = _terminals.areas[key]
        area.add(shown)
    try:
        yield area
    finally:
        with _terminals.lock:
            area.remove(shown)
            if area.is_empty:
                stack.close()
                _terminals.areas.pop(key, None)


@contextmanager
def _opened(console: Console) -> Iterator[LiveArea]:
    area = LiveArea(console)
    area.begin()
    try:
        with repeated(area.draw, _SECONDS_BETWEEN_DRAWINGS):
            yield area
    finally:
        area.end()


@atexit.register
def _end_all() -> None:
    """Give back the terminals of runs that nobody waited for, or whose end was interrupted."""
    for area, stack in list(_terminals.areas.values()):
        stack.close()
        area.end()


def _give_back_in_child() -> None:
    """A forked process prints as if nothing were shown: it has no thread that draws, nor one that lets a lock go."""
    _terminals.lock = threading.RLock()
    _writing.release()  # taken by this thread before it forked
    for area, _ in list(_terminals.areas.values()):
        area.restore()
    _terminals.areas.clear()


if hasattr(os, "register_at_fork"):
    # No fork happens in the midst of a write: the child's streams would stay locked.
    os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_give_back_in_child)


def stderr_console() -> Console:
    """A console for stderr, which shows nothing where there is none; while lines are redrawn, for what is below."""
    stream = sys.stderr
    if stream is None:
        return Console(stderr=True)  # with ``file=None`` it were one for stdout
    return Console(file=stream.stream if isinstance(stream, PrintedAbove) else stream)
