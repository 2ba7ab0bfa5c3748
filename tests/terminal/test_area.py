"""The last lines of a terminal: shared, redrawn, and out of the way of all that is printed."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from emulated_screen import Screen
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from llmprog.terminal.area import LiveArea, PrintedAbove, shown_on, stderr_console


class Lines:
    """Something shown as these lines."""

    def __init__(self, *texts):
        self.texts = texts

    def lines(self, console, width, room):
        return [Text(text) for text in self.texts]


class Stream(io.StringIO):
    """A stream of the process that leads to a screen."""

    def __init__(self, screen):
        super().__init__()
        self.screen = screen

    def write(self, text):
        return self.screen.console.file.write(text)

    def isatty(self):
        return True


def a_terminal(monkeypatch):
    """A screen that is the process's terminal; not a fixture, since pytest has streams of its own for each phase."""
    made = Screen(40, 12)
    stream = Stream(made)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return made


def test_what_is_printed_is_above(monkeypatch):
    screen = a_terminal(monkeypatch)
    before = sys.stdout
    with shown_on(screen.console, Lines("one", "two")):
        sys.stdout.write("first\nsecond\n")
        assert screen.lines == ["first", "second", "one", "two"]
        sys.stderr.writelines(["third\n", "fourth\n"])
        assert screen.lines == ["first", "second", "third", "fourth", "one", "two"]
    assert screen.lines == ["first", "second", "third", "fourth"]
    assert sys.stdout is before
    assert sys.stderr is before


def test_a_line_that_is_not_ended_is_seen_and_not_lost(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")) as area:
        sys.stdout.write("begun, ")
        area.draw()
        assert screen.lines == ["begun,", "one"]
        sys.stdout.write("ended\n")
        assert screen.lines == ["begun, ended", "one"]
        sys.stdout.write("cut o")
    sys.stdout.write("ff\n")
    assert screen.lines == ["begun, ended", "cut off"]


def test_a_bar_that_goes_back_in_its_line_is_seen_as_it_stands(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")) as area:
        kept = sys.stderr
        for number in range(1000):
            sys.stderr.write(f"\r\x1b[31m{number}/1000\x1b[0m")
        area.draw()
        assert screen.lines == ["999/1000", "one"]
        assert len(kept.rest) < 30, "only what is seen is kept"
        sys.stderr.write("\rdone\r")
        sys.stderr.write("\n")
        assert screen.lines == ["done", "one"]
        assert kept.rest == ""
    assert screen.lines == ["done"]


def test_a_line_that_is_never_ended_is_cut_and_broken_at_last(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")) as area:
        kept = sys.stdout
        sys.stdout.write("x" * 100)
        area.draw()
        assert screen.lines == ["x" * 38 + "…", "one"]
        for _ in range(200):
            sys.stdout.write("x" * 100)
        assert len(kept.rest) <= 10_000
    assert sum(text.count("x" * 100) for text in screen.written.split("\n")) == 201, "nothing is lost"


@pytest.mark.parametrize("height", [1, 2, 3])
def test_a_line_that_is_not_ended_has_its_place_where_there_is_little_room(monkeypatch, height):
    screen = Screen(20, height)
    monkeypatch.setattr(sys, "stdout", Stream(screen))
    with shown_on(screen.console, Lines("one", "two", "three")) as area:
        sys.stdout.write("name? ")
        for _ in range(3):
            area.draw()
        assert screen.lines == ["name?", "one", "two"][: max(1, height - 1)]
    assert screen.lines == ["name?"]


def test_what_raises_while_it_is_drawn_is_an_ellipsis():
    class Broken:
        def lines(self, console, width, room):
            raise KeyError("no")

    screen = Screen(40, 12)
    with shown_on(screen.console, Broken()), shown_on(screen.console, Lines("two")):
        assert screen.lines == ["…", "two"]
    assert screen.lines == []


def test_without_a_stderr_nothing_is_shown_not_even_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    stderr_console().print("lost")
    assert capsys.readouterr().out == ""


def test_what_keeps_the_stream_writes_to_it_afterwards(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")):
        kept = sys.stdout
    kept.write("later\n")
    assert screen.lines == ["later"]


def test_colours_that_a_program_prints_stay(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")):
        sys.stdout.write("\x1b[31mred\x1b[0m\n")
    assert "\x1b[31mred\x1b[0m\n" in screen.written


def test_what_is_logged_is_above_and_handlers_are_as_they_were(monkeypatch):
    screen = a_terminal(monkeypatch)
    stream = sys.stderr
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        with shown_on(screen.console, Lines("one")):
            logging.getLogger("anyone").warning("something")
            assert screen.lines == ["something", "one"]
        assert handler.stream is stream
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_stream_that_is_no_terminal_is_left_alone(monkeypatch):
    screen = a_terminal(monkeypatch)
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", None)
    with shown_on(screen.console, Lines("one")):
        assert sys.stdout is file
        sys.stdout.write("printed\n")
        assert screen.lines == ["one"]
    assert file.getvalue() == "printed\n"


def test_a_stream_that_somebody_put_in_place_meanwhile_stays(monkeypatch):
    screen = a_terminal(monkeypatch)
    theirs = io.StringIO()
    with shown_on(screen.console, Lines("one")):
        monkeypatch.setattr(sys, "stdout", theirs)
    assert sys.stdout is theirs


def test_a_console_for_stderr_writes_below_what_is_printed(monkeypatch):
    screen = a_terminal(monkeypatch)
    stream = sys.stderr
    with shown_on(screen.console, Lines("one")):
        assert isinstance(sys.stderr, PrintedAbove)
        assert stderr_console().file is stream
    assert stderr_console().file is stream


def test_several_things_are_shown_below_one_another_until_each_ends(monkeypatch):
    screen = a_terminal(monkeypatch)
    with shown_on(screen.console, Lines("one")) as first:
        with shown_on(screen.console, Lines("two", "three")) as second:
            assert second is first
            assert screen.lines == ["one", "two", "three"]
        assert screen.lines == ["one"]
        sys.stdout.write("printed\n")
    assert screen.lines == ["printed"]
    assert "\x1b[?25l" not in screen.written, "a process that is killed could not bring the cursor back"


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8])
def test_several_things_share_the_room(height):
    screen = Screen(20, height)
    many = [Lines(*(f"{name} {number}" for number in range(9))) for name in "abc"]
    with shown_on(screen.console, many[0]), shown_on(screen.console, many[1]), shown_on(screen.console, many[2]):
        shown = screen.lines
        assert len(shown) == max(1, height - 1)
        assert {line[0] for line in shown} == set("abc"[: height - 1] or "a")
    assert screen.lines == []


def test_an_end_that_is_repeated_is_an_end(monkeypatch):
    screen = a_terminal(monkeypatch)
    area = LiveArea(screen.console)
    area.begin()
    area.add(Lines("one"))
    area.end()
    area.end()
    area.draw()
    assert screen.lines == []
    assert screen.written.count("one") == 1


def test_a_terminal_without_the_letters_gets_others(monkeypatch):
    screen = Screen(40, 12)
    monkeypatch.setattr(type(screen.console.file), "encoding", "ascii", raising=False)
    with shown_on(screen.console, Lines("a → b")):
        assert screen.lines == ["a ? b"]


def test_a_terminal_that_is_gone_ends_nothing():
    file = io.StringIO()
    with shown_on(Console(file=file, force_terminal=True, width=40, height=12), Lines("one")) as area:
        file.close()
        area.draw()
        area.print_from(PrintedAbove(io.StringIO(), area), "printed\n")
    assert area.is_empty


text = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=50)


@settings(max_examples=60)
@given(st.lists(st.tuples(text, st.booleans()), max_size=8), st.lists(text, min_size=1, max_size=4))
def test_whatever_is_printed_is_there_in_the_end(printed, shown):
    screen = Screen(60, 40)
    stream = Stream(screen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with shown_on(screen.console, Lines(*shown)) as area:
            for piece, is_ended in printed:
                sys.stdout.write(piece + "\n" * is_ended)
                area.draw()
    alone = Screen(60, 40)
    alone.stream.feed("".join(piece + ("\r\n" if is_ended else "") for piece, is_ended in printed))
    assert screen.lines == alone.lines
