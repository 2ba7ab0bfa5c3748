"""A terminal to look at: what a program writes goes through the emulator ``pyte``."""

from __future__ import annotations

import io

import pyte
from rich.console import Console


class Screen:
    """A terminal of ``width`` by ``height``, and a console that writes to it."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.Stream(self.screen)
        self.written = ""
        self.console = Console(
            file=self._file(),
            force_terminal=True,
            color_system="truecolor",
            width=width,
            height=height,
            _environ={"TERM": "xterm-256color"},
        )

    def _file(self) -> io.TextIOBase:
        screen = self

        class Feeding(io.StringIO):
            def write(self, text: str) -> int:
                screen.written += text
                screen.stream.feed(text.replace("\n", "\r\n"))  # as a terminal in its usual mode does
                return len(text)

        return Feeding()

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without blanks at the ends of lines and empty lines at the end."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines
