"""The command line on a real terminal device: what it shows while it runs, and what is left on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

# The model says what would take the terminal over, among letters.
HOSTILE_PROGRAM = r"""
import time

from llmprog import Program, generator
from llmprog.search import BeamSearch

EVIL = "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b[?1049h\u202e\x9b31m[bold]" + "\U0001f1e6" * 60 + "\n" * 5


@generator
def step(state: str) -> list[str]:
    time.sleep(0.1)
    return [state + letter + EVIL for letter in "abc"]


hostile = Program(name="hostile", generators=[step], controller=BeamSearch(beam_width=2, max_depth=12))
"""


class Terminal:
    """A command in a terminal of its own, and what its screen showed on the way."""

    def __init__(self, arguments, *, size=(24, 80), environment=None, cwd=None):
        self.size = size
        self.screen = pyte.Screen(size[1], size[0])
        self.stream = pyte.ByteStream(self.screen)
        self.shown = []
        self.written = b""
        self.master, slave = pty.openpty()
        self.resize(*size)
        known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from llmprog.cli import main; main()", *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=cwd,
            env={**known, "TERM": "xterm-256color", **(environment or {})},
        )  # fmt: skip
        os.close(slave)

    def resize(self, height, width):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def run(self, on_screen=lambda terminal: None, timeout_s=110):
        """To its end; ``on_screen`` is called whenever something was written. Returns the exit code."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not select.select([self.master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            self.written += piece
            self.stream.feed(piece)
            self.shown.append("\n".join(self.lines))
            on_screen(self)
        os.close(self.master)
        return self.process.wait(timeout=10)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]


@pytest.fixture
def hostile(tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE_PROGRAM)
    return tmp_path


def test_a_search_is_watched_and_only_its_result_is_left():
    terminal = Terminal(["run", "game24", "4", "9", "10", "13", "--seed", "1"], size=(60, 100))
    assert terminal.run() == 0
    assert any("best" in shown and "step 1" in shown for shown in terminal.shown)
    left = [line for line in terminal.lines if line]
    assert left[0] == "4 9 10 13"
    assert "★" in "".join(left)
    assert any(line.startswith("Answer: ") for line in left)
    assert not any("tokens generated" in line for line in left), "nothing of the progress is left"


def test_with_no_color_lines_are_plain():
    terminal = Terminal(["run", "arithmetic", "2 + 3", "--seed", "1"], environment={"NO_COLOR": "1"})
    assert terminal.run() == 0
    assert b"\x1b[2K" not in terminal.written
    assert b"\x1b[1A" not in terminal.written
    assert any(line.startswith("Answer: 5") for line in terminal.lines)


@pytest.mark.parametrize("size", [(24, 80), (8, 30)])
def test_hostile_thoughts_leave_the_terminal_as_it_was(hostile, size):
    terminal = Terminal(["run", "hostile.py:hostile", "x"], size=size, cwd=hostile)
    assert terminal.run() == 0
    assert any("step" in shown for shown in terminal.shown), "it was watched"
    assert terminal.screen.title == ""
    for sequence in (b"\x1b[2J", b"\x1b]", b"\x1b[?1049h", "\u202e".encode(), b"\xc2\x9b"):
        assert sequence not in terminal.written
    assert not any("tokens generated" in line for line in terminal.lines)


def test_a_terminal_that_grows_and_shrinks_shows_the_result_in_the_end(hostile):
    sizes = iter([(30, 120), (20, 60), (24, 90), (30, 100)])

    def resize(terminal):
        if (size := next(sizes, None)) is not None:
            terminal.resize(*size)

    terminal = Terminal(["run", "hostile.py:hostile", "x"], size=(24, 80), cwd=hostile)
    assert terminal.run(resize) == 0
    assert next(sizes, None) is None, "it was resized while it ran"
    assert any(line.startswith("Answer: ") for line in terminal.lines)
