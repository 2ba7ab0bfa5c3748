"""The command line on a real terminal device: what it shows while it runs, and what is left on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
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
from itertools import count
from pathlib import Path

from llmprog import Program, generator
from llmprog.search import BeamSearch

EVIL = "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b[?1049h\u202e\x9b31m[bold]" + "\U0001f1e6" * 60 + "\n" * 5

num_steps = count(1)


@generator
def step(state: str) -> list[str]:
    time.sleep(0.1)
    while next(num_steps) > 9 and Path("wait").exists():
        time.sleep(0.01)
    return [state + letter + EVIL for letter in "abc"]


hostile = Program(name="hostile", generators=[step], controller=BeamSearch(beam_width=2, max_depth=12))
"""


CLI = "from llmprog.cli import main; main()"

# A program of a user, who shows its progress, prints and logs while it runs.
SHOWN = r"""
import asyncio
import logging
import os
import signal
import sys
import threading
import time

from hostile import EVIL, hostile, step
from llmprog import Model, Program, generator, map
from llmprog.backends import ScriptedBackend
from llmprog.programs.self_consistency import self_consistency
from llmprog.search import BeamSearch

logging.basicConfig(format="log: %(message)s")
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started to ignore it


@generator
async def telling(state: str, model: Model) -> list[str]:
    print(f"print: {len(state)} 0123456789", flush=True)
    print("in two ", end="")
    await asyncio.sleep(0.15)
    print("parts")
    logging.warning("one of %s", len(state))
    if state == "fail" + "x" * 2:
        raise ValueError("no more")
    return [state + "x"]


program = Program(name="told\x1b[2J", generators=[telling], controller=BeamSearch(beam_width=1, max_depth=4))
"""


class Terminal:
    """A command in a terminal of its own, and what its screen showed on the way."""

    def __init__(self, arguments, *, code=CLI, size=(24, 80), environment=None, cwd=None, stdout=None):
        self.size = size
        self.screen = pyte.Screen(size[1], size[0])
        self.stream = pyte.ByteStream(self.screen)
        self.shown = []
        self.written = b""
        self.master, slave = pty.openpty()
        self.resize(*size)
        known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave, cwd=cwd, start_new_session=True,
            env={**known, "TERM": "xterm-256color", **(environment or {})},
        )  # fmt: skip
        os.close(slave)

    def resize(self, height, width):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def run(self, on_screen=lambda terminal: None, timeout_s=240):
        """To its end; ``on_screen`` is called whenever something was drawn. Returns the exit code."""
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
            for drawn in re.split(rb"(?=\r\x1b\[2K)", piece):  # however much is read at once, each drawing is seen
                self.stream.feed(drawn)
                self.shown.append("\n".join(self.lines))
                on_screen(self)
        os.close(self.master)
        return self.process.wait(timeout=60)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]


@pytest.fixture
def hostile(tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE_PROGRAM)
    return tmp_path


def shown_by(code, folder, **options):
    """The terminal of a user's program that ends with ``code``."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return Terminal([], code=SHOWN + code, cwd=folder, environment={"PYTHONPATH": path}, **options)


def is_given_back(terminal):
    """Whether the cursor was never gone and nothing of what was redrawn is left, but for the line on how it ended."""
    text = terminal.written
    left = [line for line in terminal.lines if "tokens generated" in line and " ended" not in line]
    return b"\x1b[?25" not in text and b"\x1b[?1049h" not in text and left == []


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
    (hostile / "wait").touch()

    def resize(terminal):
        if (size := next(sizes, None)) is not None:
            terminal.resize(*size)
        else:  # the run, which has been resized while it went on, may end
            (hostile / "wait").unlink(missing_ok=True)

    terminal = Terminal(["run", "hostile.py:hostile", "x"], size=(24, 80), cwd=hostile)
    assert terminal.run(resize) == 0
    assert any(line.startswith("Answer: ") for line in terminal.lines)


# ------------------------------------------------------------------------------------------------ progress=True


def test_what_a_program_prints_and_logs_is_above_what_is_redrawn(hostile):
    terminal = shown_by("program.run('x', progress=True)\nprint('after')", hostile, size=(30, 100))
    assert terminal.run() == 0
    assert any("best" in shown and "print: 2" in shown for shown in terminal.shown), "both at once"
    told = [line for n in range(1, 5) for line in (f"print: {n} 0123456789", "in two parts", f"log: one of {n}")]
    ended = "told[2J: ended: max_depth; 5 thoughts, 4 checked, 0 calls, 0 tokens generated, "
    lines = [line for line in terminal.lines if line]
    assert [line.partition("generated, ")[0] for line in lines] == [*told, ended.partition("generated, ")[0], "after"]
    assert is_given_back(terminal)


def test_what_is_printed_to_a_file_goes_there(hostile):
    with (hostile / "out.txt").open("wb") as file:
        terminal = shown_by("program.run('x', progress=True)", hostile, stdout=file)
        assert terminal.run() == 0
    assert (hostile / "out.txt").read_text().splitlines() == [
        line for n in range(1, 5) for line in (f"print: {n} 0123456789", "in two parts")
    ]
    assert any("best" in shown for shown in terminal.shown)
    assert not any("print:" in shown for shown in terminal.shown)


@pytest.mark.parametrize("size", [(24, 80), (6, 24)])
def test_hostile_thoughts_and_answers_are_shown_and_the_terminal_stays_as_it_was(hostile, size):
    terminal = shown_by(
        "hostile.run('x', progress=True)\n"
        "say = ScriptedBackend(lambda prompt, sample: 'Answer: ' + EVIL * (sample % 3))\n"
        "map(self_consistency(num_samples=9), ['q' + EVIL] * 9, backend=say, progress=True, concurrency=2)\n",
        hostile,
        size=size,
    )
    assert terminal.run() == 0
    assert terminal.screen.title == ""
    for sequence in (b"\x1b[2J", b"\x1b]", b"\x1b[?1049h", "\u202e".encode(), b"\xc2\x9b"):
        assert sequence not in terminal.written
    assert b"\x1b[?25" not in terminal.written


def test_an_error_gives_the_terminal_back_and_is_told_whole(hostile):
    size = (200, 250)  # a traceback of a Python whose files have long names, too
    terminal = shown_by("program.run('fail', progress=True)", hostile, size=size)
    assert terminal.run() == 1
    assert is_given_back(terminal)
    lines = [line for line in terminal.lines if line]
    assert any(line.startswith("told[2J: ended early; 3 thoughts") for line in lines)
    assert "ValueError: no more" in "\n".join(lines)


@pytest.mark.parametrize(
    "how", ["program.run('x' * 9, progress=True)", "asyncio.run(program.arun('x' * 9, progress=True))"]
)
def test_an_interrupt_gives_the_terminal_back(hostile, how):
    code = (
        "program = Program(name='long', generators=[telling], controller=BeamSearch(beam_width=1, max_depth=99))\n"
        f"try:\n    {how}\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    sent = []

    def interrupt(terminal):
        if not sent and "print: 11" in terminal.shown[-1]:
            sent.append(True)
            os.kill(terminal.process.pid, signal.SIGINT)

    terminal = shown_by(code, hostile, size=(60, 100))
    assert terminal.run(interrupt) == 0
    assert is_given_back(terminal)
    lines = [line for line in terminal.lines if line]
    assert lines[-1] in ("interrupted", "in two interrupted")  # a line that was not ended goes on
    assert any(line.startswith("long: ended early; ") for line in lines)


def test_a_run_that_nobody_waited_for_gives_the_terminal_back(hostile):
    terminal = shown_by(
        "threading.Thread(target=program.run, args=('x',), kwargs={'progress': True}, daemon=True).start()\n"
        "time.sleep(0.4)\n",
        hostile,
    )
    assert terminal.run() == 0
    assert is_given_back(terminal)


def test_what_ends_the_process_leaves_the_cursor(hostile):
    def end(terminal):
        if "best" in terminal.shown[-1]:
            terminal.process.terminate()

    (hostile / "wait").touch()
    terminal = shown_by("hostile.run('x', progress=True)", hostile)
    assert terminal.run(end) == -signal.SIGTERM
    assert any("best" in shown for shown in terminal.shown)
    assert not terminal.screen.cursor.hidden
    assert b"\x1b[?25" not in terminal.written


def test_other_threads_print_and_log_while_many_runs_begin_and_end(hostile):
    code = (
        "signal.alarm(200)\n"
        "ended = threading.Event()\n"
        "def talk(say):\n"
        "    while not ended.is_set():\n"
        "        say('told by a thread')\n"
        "        time.sleep(0.001)\n"
        "says = (print, lambda text: sys.stderr.write(text + chr(10)), logging.warning)\n"
        "threads = [threading.Thread(target=talk, args=(say,), daemon=True) for say in says]\n"
        "for thread in threads:\n"
        "    thread.start()\n"
        "quick = Program(name='quick', generators=[generator(lambda s: [s + 'x'], name='grow')],\n"
        "                controller=BeamSearch(beam_width=1, max_depth=2))\n"
        "for _ in range(50):\n"
        "    quick.run('x', progress=True)\n"
        "ended.set()\n"
        "for thread in threads:\n"
        "    thread.join()\n"
        "print('all of them')\n"
    )
    terminal = shown_by(code, hostile)
    assert terminal.run() == 0
    assert [line for line in terminal.lines if line][-1] == "all of them"


def test_a_child_that_is_forked_meanwhile_prints(hostile):
    code = (
        "from rich.console import Console\n"
        "from rich.text import Text\n"
        "from llmprog.terminal import area\n"
        "class Lines:\n"
        "    def lines(self, console, width, room):\n"
        "        return [Text('shown')]\n"
        "class Slow:\n"
        "    def write(self, text):\n"
        "        time.sleep(0.01)\n"
        "    def flush(self):\n"
        "        pass\n"
        "    def isatty(self):\n"
        "        return True\n"
        "signal.alarm(200)\n"
        "with area.shown_on(Console(file=Slow()), Lines()) as shown:\n"
        "    ended = threading.Event()\n"
        "    def draw():\n"
        "        while not ended.is_set():\n"
        "            shown.draw()\n"
        "            time.sleep(0.005)\n"
        "    drawing = threading.Thread(target=draw, daemon=True)\n"
        "    drawing.start()\n"
        "    for number in range(20):\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            signal.alarm(60)\n"
        "            print('child', number)\n"
        "            logging.warning('child')\n"
        "            os._exit(0)\n"
        "        assert os.waitpid(child, 0)[1] == 0, number\n"
        "    ended.set()\n"
        "    drawing.join()\n"
    )
    terminal = shown_by(code, hostile)
    assert terminal.run() == 0
    assert [line for line in terminal.lines if line][-2:] == ["child 19", "log: child"]


def test_a_display_that_is_gone_takes_no_result_with_it(hostile):
    code = (
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Odd:\n"
        "    number: int\n"
        "    def __str__(self):\n"
        "        raise KeyError(self.number)\n"
        "odd = Program(name='odd', generators=[generator(lambda s: [Odd(s.number + 1)], name='grow')],\n"
        "              start=Odd, controller=BeamSearch(beam_width=1, max_depth=2))\n"
        "def show(name):\n"
        "    print(name, odd.run(1, progress=True).answer.number, flush=True)\n"
        "show('on a terminal')\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "sys.stderr = os.fdopen(writer, 'w')\n"
        "show('without a reader')\n"
        "try:\n"
        "    sys.stderr.close()\n"
        "except BrokenPipeError:\n"
        "    pass\n"
        "show('closed')\n"
        "map(odd, [1, 2], progress=True)\n"
        "sys.stderr = None\n"
        "show('without one')\n"
        "map(odd, [1, 2], progress=True)\n"
    )
    terminal = shown_by(code, hostile)
    assert terminal.run() == 0
    lines = [line for line in terminal.lines if line]
    assert lines.pop(0).startswith("odd: ended: max_depth; 3 thoughts")
    assert lines == ["on a terminal 3", "without a reader 3", "closed 3", "without one 3"]


def test_runs_side_by_side_share_the_terminal(hostile):
    code = (
        "async def both():\n"
        "    await asyncio.gather(*(program.arun(given, progress=True) for given in ('one', 'two')))\n"
        "asyncio.run(both())\n"
    )
    terminal = shown_by(code, hostile, size=(60, 100))
    assert terminal.run() == 0
    assert max(shown.count("  best  ") for shown in terminal.shown) == 2, "both at once"
    assert sum(line.startswith("told[2J: ended: ") for line in terminal.lines) == 2
    assert is_given_back(terminal)


def test_the_votes_of_rows_in_hand_are_shown(hostile):
    code = (
        "def say(prompt, sample):\n"
        "    time.sleep(0.03)\n"
        "    return 'Answer: ' + ('41', '42', '42')[sample % 3]\n"
        "vote = self_consistency(num_samples=20, stopping='beta', confidence=0.999)\n"
        "map(vote, ['a', 'b', 'c', 'd'], backend=ScriptedBackend(say), progress=True, concurrency=2)\n"
    )
    terminal = shown_by(code, hostile, size=(24, 100))
    assert terminal.run() == 0
    assert any(
        "row 1" in shown and "█" in shown and " votes, " in shown and "sure" in shown for shown in terminal.shown
    )
    (line,) = " ".join(line for line in terminal.lines if line).split("self_consistency: ")[1:]
    assert line.startswith("4 of 4 rows, ")
    assert "4 votes decided early, 20 of 20 samples each" in line
