"""Progress on a terminal: bounded, on top of nothing else, gone in the end, and not to be broken by any text."""

from __future__ import annotations

import io
import re

import pytest
from emulated_screen import Screen
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from llmprog import Program, Prompt, Usage, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.events import CallSettled, CompletionDelta, SearchStarted, ThoughtChecked, ThoughtExpanded, VotesChanged
from llmprog.nodes import Verdict
from llmprog.progress import RunProgress, repeated
from llmprog.redaction import register_secret
from llmprog.search import BeamSearch, SelfConsistency, VoteResult
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.terminal.area import shown_on
from llmprog.terminal.live import LiveLines, PrintedText, live_progress
from llmprog.types import Delta, Request

ASKED = Request(prompt=Prompt.from_text("q"))
# What rich itself writes: colours, cursor on and off, up, begin of line, erase line.
OWN = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r")


def progress_with(states=(), *, written="", votes=None):
    """A run that has made ``states`` from its first, each with its place as its score."""
    progress = RunProgress(clock=lambda: 0.0)
    graph = ThoughtGraph()
    graph.add("start", "start")
    made = [graph.add(state, number, (0,))[0] for number, state in enumerate(states)]
    for score, thought in enumerate(made):
        graph.record_verdict(thought, "judge", Verdict(score=float(score)))
    new = tuple(True for _ in made)
    progress(ThoughtExpanded((0,), tuple(made), new, tuple(made), (), 0, graph=graph))
    for thought in made:
        progress(ThoughtChecked(thought, graph=graph))
    if votes is not None:
        progress(VotesChanged(votes, votes.num_samples, graph=graph))
    if written:
        progress(CompletionDelta("node", ASKED, Delta(sample=0, text=written)))
    return progress


def vote(*answers):
    histogram = tuple((answer, float(len(answers) - place)) for place, answer in enumerate(answers))
    return VoteResult(histogram=histogram, confidence=0.5, num_samples=9, num_valid=8, num_allowed=10)


def drawn(progress, width=80, height=24):
    screen = Screen(width, height)
    with shown_on(screen.console, LiveLines(progress)):
        return screen.lines


def test_the_frontier_is_shown_best_first_with_the_way_to_the_best():
    lines = drawn(progress_with(["first", "second", "third"]))
    assert "4 thoughts, 3 checked" in lines[0]
    assert lines[1].split() == ["2", "best", "start", "→", "third"]
    assert [line.split() for line in lines[2:]] == [
        ["2", "step", "1", "third"],
        ["1", "step", "1", "second"],
        ["0", "step", "1", "first"],
    ]


def test_of_many_open_thoughts_a_few_are_shown():
    assert len(drawn(progress_with(map(str, range(500))))) == 8


def test_a_vote_takes_the_place_of_the_frontier():
    lines = drawn(progress_with(["a"], votes=vote("yes", "no")))
    assert "step" not in "".join(lines)
    assert [line.split()[0] for line in lines[2:4]] == ["2", "1"]
    assert lines[2].endswith("yes")
    assert "9 of 10 samples drawn, 1 without a valid answer, 50.0% sure" in lines[4]


def test_known_secrets_are_not_shown(plain_console):
    secret = "sk-most-secret-" + "5" * 20
    register_secret(secret)
    lines = drawn(progress_with([secret], votes=vote("y" * 10 + secret, "no"), written=f"my {secret}"), width=60)
    assert "sk-most" not in "".join(lines)
    assert "".join(lines).count("[redacted]") == 3
    printed = PrintedText(plain_console, RunProgress())
    printed(piece(f"my {secret}."))
    assert plain_console.file.getvalue() == "my [redacted]."


def test_an_answer_without_a_text_is_an_ellipsis():
    class Odd:
        def __str__(self):
            raise KeyError("no")

    assert drawn(progress_with(["a"], votes=vote(Odd(), "no")))[2].endswith("█  …")


def test_the_end_of_a_long_text_is_shown_in_the_lines_that_are_left():
    text = "\n".join(f"line {number} " + "word " * 40 for number in range(200)) + "\nthe end"
    for height in (4, 10, 24):
        lines = drawn(progress_with(["a", "b", "c"], written=text), height=height)
        assert len(lines) <= height - 1
    assert lines[-1] == "the end"


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 40])
@pytest.mark.parametrize("height", [1, 2, 3, 8])
def test_it_fits_any_terminal(width, height):
    progress = progress_with(["漢字 " * 50, "x" * 300], written="y " * 300, votes=vote("漢" * 100, "n" * 100))
    screen = Screen(width, height)
    screen.console.print("above"[:width], end="" if height == 1 else "\n")
    with shown_on(screen.console, LiveLines(progress)) as live:
        for _ in range(3):
            live.draw()
    assert "".join(screen.lines) in ("above"[:width], "")


HOSTILE = [
    *(
        "\x1b[2J\x1b[H",
        "\x1b]52;c;ZXZpbA==\x07",
        "\x1b]8;;http://evil\x1b\\x",
        "\x9b2J",
        "\x1bc",
        "\x1b[1000A",
        "\x1b[?1049h",
    ),
    *("\x90q\x9c", "\x1bPq\x1b\\", "\r\r\r", "\x08" * 20, "\n" * 30, "\t" * 9, "\x0e\x0f", "[bold red]x[/]"),
    *("\u202eabc", "\u2066\u2069", "\u2028\u2029", "\ud800", "\U000e0001", "a\u0301" * 40, "\u20dd" * 20, "漢" * 90),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 9, "❤\ufe0f" * 30, "\U0001f1e6" * 40, "\U0001f3fb" * 40),
    *("\u1160" * 50, "\u0e33" * 50, "ﷺ" * 30, "𒐫" * 30),
]
text = st.text(st.characters(), max_size=60) | st.sampled_from(HOSTILE)


@settings(max_examples=200)
@given(st.lists(text, max_size=4), text, st.lists(text, min_size=1, max_size=3, unique=True), st.integers(12, 100))
def test_no_text_breaks_the_terminal(states, written, answers, width):
    progress = progress_with(states, written=written, votes=vote(*answers) if len(written) % 2 else None)
    screen = Screen(width, 24)
    screen.console.print("above")
    with shown_on(screen.console, LiveLines(progress)) as live:
        for _ in range(2):
            live.draw()
            assert screen.lines[0] == "above", "what was there before is still there"
    assert screen.lines == ["above"], "nothing is left behind"
    rest = OWN.sub("", screen.written)
    assert all(c == "\n" or c.isprintable() for c in rest), "no control character but rich's own"


def test_a_run_is_drawn_while_it_goes_on_and_gone_at_its_end():
    screen = Screen(100, 24)
    seen = []

    @generator(prompt="{state}", n=3, name="step")
    def step(state: str, completion: str) -> list[str]:
        seen.append("\n".join(screen.lines))
        return [state + completion[:1]]

    @checker
    def rule(state: str) -> Verdict:
        return Verdict(valid=not state.endswith("c"), score=float(len(state)))

    program = Program(generators=[step], checkers=[rule], controller=BeamSearch(beam_width=2, max_depth=5))
    progress = RunProgress()
    with shown_on(screen.console, LiveLines(progress)) as live:

        def watch(event):
            progress(event)
            live.draw()

        backend = ScriptedBackend(lambda p, i: "abc"[i % 3] + "\x1b[2J")
        program.run("s", backend=backend, seed=1, on_event=watch, stream=True)
    assert any("best" in shown and "step" in shown and "→" in shown for shown in seen)
    assert screen.lines == []


def test_a_vote_is_drawn_as_it_comes():
    screen = Screen(100, 24)
    say = generator(prompt="{state}", name="say")(lambda state, completion: [completion])
    program = Program(generators=[say], controller=SelfConsistency(num_samples=6))
    shown = []
    progress = RunProgress()
    with shown_on(screen.console, LiveLines(progress)) as live:

        def watch(event):
            progress(event)
            live.draw()
            shown.append("\n".join(screen.lines))

        program.run("s", backend=ScriptedBackend(lambda p, i: "ab"[i % 2]), seed=1, on_event=watch)
    assert any("samples drawn" in text and "█" in text for text in shown)


def test_a_terminal_is_drawn_on_from_begin_to_end():
    screen = Screen()
    with live_progress(screen.console, enabled=True) as observe:
        assert "1 thoughts" in screen.lines[0]
        observe(settled())
    assert screen.lines == []


# ------------------------------------------------------------------------------- where lines cannot be redrawn


@pytest.fixture
def plain_console():
    return Console(file=io.StringIO(), width=20)


def piece(text, **options):
    return CompletionDelta("node", ASKED, Delta(sample=options.pop("sample", 0), text=text, **options))


def settled():
    return CallSettled("node", ASKED, Usage(calls=2), 0.1)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_is_to_be_plain_gets_no_control_characters(environment, monkeypatch):
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(name, value)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with live_progress(console, enabled=True) as observe:
        observe(piece("hello \x1b[31mworld"))
        observe(settled())
    assert "hello [31mworld" in re.sub(r"\x1b\[0?m", "", console.file.getvalue())
    assert not re.search(r"\x1b\[(?!0?m)", console.file.getvalue())


def test_elsewhere_a_line_now_and_then_says_how_far_it_is(plain_console):
    printed = PrintedText(plain_console, progress_with(["a"]))
    with repeated(printed.print_line, interval_s=0.01):
        while plain_console.file.getvalue().count("\n") < 2:
            pass
    lines = plain_console.file.getvalue().splitlines()
    assert set(lines) == {"2 thoughts, 1 checked, 0 calls, 0 tokens generated, 0 s"}


def test_no_such_line_comes_between_the_pieces_of_a_text(plain_console):
    printed = PrintedText(plain_console, RunProgress())
    printed(piece("One "))
    printed.print_line()
    printed(piece("two"))
    printed(settled())
    assert plain_console.file.getvalue() == "One two\n"


def test_the_line_of_a_text_that_was_cut_off_is_ended(plain_console, capsys):
    with live_progress(plain_console, enabled=True, name="a\x1b[2J") as observe:
        observe(SearchStarted(graph=ThoughtGraph()))
        observe(piece("One t"))
    assert plain_console.file.getvalue() == "One t\n"
    said = "a[2J: ended early; 1 thoughts, 0 checked, 0 calls, 0 tokens generated, "
    assert re.fullmatch(re.escape(said) + r"\d+ s\n", capsys.readouterr().err)


def test_nothing_is_shown_that_was_not_asked_for(plain_console):
    with live_progress(plain_console, enabled=False) as observe:
        observe(piece("text"))
        observe(settled())
    assert plain_console.file.getvalue() == ""
