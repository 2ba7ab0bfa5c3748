"""The last lines of a terminal, redrawn while runs go on: one place for all of them. What is printed goes above it."""

from __future__ import annotations

import atexit
import functools
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, cast

from rich.console import Console
from rich.text import Text

from llmprog.progress import repeated
from llmprog.terminal.text import fit

_MAX_LINES = 24
_SECONDS_BETWEEN_DRAWINGS = 0.1
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE, _UP_AND_ERASE = "\r\x1b[2K", "\x1b[1A\x1b[2K"


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
    written above them as they are; a line that is not ended yet waits.

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
        self._drawn: list[str] = []
        self._restore: list[Callable[[], object]] = []
        # Held while something is written. It may be taken again: a signal's handler prints, too.
        self._writing = threading.RLock()
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
        """Take the end of the terminal; the cursor is hidden."""
        self._is_drawing = True
        self._write(_HIDE_CURSOR)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            with suppress(AttributeError, ValueError):  # there is none, or it is closed
                if stream.isatty() and not isinstance(stream, PrintedAbove):
                    self._redirect(name, stream)

    def end(self) -> None:
        """Give it back: nothing of the lines is left, the cursor is there, and printing is as it was."""
        with self._writing:
            if not self._is_drawing:
                return
            self._write(self._erasure() + _SHOW_CURSOR)
            self._drawn = []
            while self._restore:
                self._restore.pop()()
            self._is_drawing = False  # last, so that an end that was interrupted can be made up for

    def draw(self) -> None:
        """Draw everything anew, as it stands now."""
        lines = self._rendered()
        with self._writing:
            if self._is_drawing:
                erasure = self._erasure()
                self._drawn = lines
                self._write(erasure + "\n".join(lines))

    def print_above(self, text: str) -> None:
        """Write text that ends with a line break above the lines."""
        with self._writing:
            self._write(self._erasure() + text + "\n".join(self._drawn))

    def _rendered(self) -> list[str]:
        """The lines of all members, which share the room there is."""
        console, members = self._console, self._members
        width = console.width - 1  # some terminals go on to the next line once the last column is full
        left = max(1, min(_MAX_LINES, console.size.height - 1))
        found: list[str] = []
        for place, member in enumerate(members):
            room = max(1, left // (len(members) - place))
            for line in member.lines(console, width, room)[: min(room, left)]:
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

    def _write(self, text: str) -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        with suppress(OSError, ValueError):  # a terminal that is gone is no reason to end a run
            self._file.write(text.encode(encoding, "replace").decode(encoding))
            self._file.flush()

    def _redirect(self, name: str, stream: Any) -> None:
        above = PrintedAbove(stream, self)

        def restore() -> None:
            if getattr(sys, name) is above:
                setattr(sys, name, stream)
            above.close_area()

        setattr(sys, name, above)
        self._restore.append(restore)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                handler.setStream(above)
                self._restore.append(functools.partial(handler.setStream, stream))


class PrintedAbove:
    """A stream of a terminal whose whole lines go above a ``LiveArea`` as long as there is one; else the stream itself.

    Args:
        stream: The terminal's.
        area: The lines that are redrawn on it.
    """

    def __init__(self, stream: Any, area: LiveArea) -> None:
        self.stream = stream
        self._area: LiveArea | None = area
        self._rest = ""  # the line that is not ended yet
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; returns how many characters that are."""
        with self._lock:
            if self._area is None:
                self.stream.write(text)
                return len(text)
            lines, end, self._rest = (self._rest + text).rpartition("\n")
            if end:
                self._area.print_above(lines + end)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have what was written be seen; a line that is not ended yet waits for its end."""
        self.stream.flush()

    def close_area(self) -> None:
        """Write straight to the stream from now on, the line that is not ended yet first."""
        with self._lock:
            self._area = None
            if self._rest:
                self.stream.write(self._rest)
                self.stream.flush()


_lock = threading.RLock()
_areas: dict[int, tuple[LiveArea, ExitStack]] = {}  # by the stream they are written to, with what ends them


@contextmanager
def shown_on(console: Console, shown: Shown) -> Iterator[LiveArea]:
    """Has something shown at the end of a terminal while the block runs, with whatever else is shown there."""
    key = id(console.file)
    with _lock:
        if key not in _areas:
            stack = ExitStack()
            _areas[key] = (stack.enter_context(_opened(console)), stack)
        area, stack = _areas[key]
        area.add(shown)
    try:
        yield area
    finally:
        with _lock:
            area.remove(shown)
            if area.is_empty:
                stack.close()
                _areas.pop(key, None)


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
    for area, stack in list(_areas.values()):
        stack.close()
        area.end()


def stderr_console() -> Console:
    """A console for stderr; while lines are redrawn there, for the terminal below them."""
    stream = sys.stderr
    return Console(file=stream.stream if isinstance(stream, PrintedAbove) else stream)
