"""What the terminal shows: hostile text is defused, the tree keeps the solution in view."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmprog import Program, Prompt, Usage, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.events import CallSettled, CompletionDelta
from llmprog.nodes import Verdict
from llmprog.progress import RunProgress
from llmprog.search import BeamSearch, SelfConsistency
from llmprog.terminal import answer_line, graph_tree, live_progress, plain, print_result, spent_line
from llmprog.terminal.live import LiveLines
from llmprog.types import Delta, Request


def shown(renderable: object, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@generator
def grow(state: str) -> list[str]:
    return [state + letter for letter in "abcdefghij"]


@checker
def no_c(state: str) -> Verdict:
    return Verdict(valid="c" not in state, score=float(len(set(state))), reason="" if "c" not in state else "has a c")


words = Program(
    name="words", start=lambda text: text, generators=[grow], checkers=[no_c], goal=lambda s: s == "jab",
    controller=BeamSearch(beam_width=4, max_depth=3),
)  # fmt: skip


@given(st.text())
def test_plain_text_has_no_control_or_format_characters(text: str) -> None:
    kept = plain(text)
    assert all(unicodedata.category(c)[0] != "C" for c in kept)
    assert "\n" not in kept


def test_terminal_escapes_of_a_model_are_not_obeyed() -> None:
    hostile = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]8;;http://evil\x1b\\click\u202egnp.exe [bold red]x[/] \x9b31m"
    program = Program(
        name="echo", start=lambda text: text, controller=SelfConsistency(num_samples=2),
        generators=[generator(prompt="{state}", name="say")(lambda state, completion: [completion])],
    )  # fmt: skip
    result = program.run("hello", backend=ScriptedBackend(lambda p, i: hostile), seed=1)
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    print_result(console, result)
    text = console.file.getvalue()
    assert not any(c in text for c in "\x1b\x07\x9b\u202e")
    assert "[bold red]x[/]" in text
    assert not any(c in answer_line(result) + spent_line(result) for c in "\x1b\x07\x9b\u202e")


def test_the_solution_path_is_shown_whatever_its_rank() -> None:
    result = words.run("", seed=1)
    assert not result.solved
    target = next(t for t in result.graph if t.depth == 2)
    tree = shown(graph_tree(result.graph, [t.id for t in result.graph.path(target.id)]))
    assert f" {target.state}  " in tree


def test_refused_thoughts_show_their_reason_and_the_rest_is_counted() -> None:
    result = words.run("", seed=1)
    tree = shown(graph_tree(result.graph))
    assert "… 3 more, 1 refused by rules" in tree
    assert len(tree.splitlines()) < 100


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with live_progress(console, enabled=True) as progress:
        words.run("", seed=1, on_event=progress)
    assert console.file.getvalue() == ""


def test_progress_counts_what_happened() -> None:
    progress = RunProgress()
    result = words.run("", seed=1, on_event=progress)
    assert progress.num_thoughts == len(result.graph)
    assert progress.line().startswith(f"{len(result.graph)} thoughts, ")


ASKED = Request(prompt=Prompt.from_text("q"), num_samples=2)


def piece(text: str, **options: object) -> CompletionDelta:
    return CompletionDelta("node", ASKED, Delta(sample=options.pop("sample", 0), text=text, **options))


def settled() -> CallSettled:
    return CallSettled("node", ASKED, Usage(calls=2), 0.1)


def streamed(*events: object) -> str:
    console = Console(file=io.StringIO(), width=20)
    with live_progress(console, enabled=True) as progress:
        for event in events:
            progress(event)
    return console.file.getvalue()


def test_pieces_follow_one_another_where_there_is_no_terminal() -> None:
    assert streamed(piece("One "), piece("two\nthree"), settled()) == "One two\nthree\n"


def test_of_several_samples_the_first_is_shown_until_its_call_has_settled() -> None:
    shown_text = streamed(piece("a"), piece("x", sample=1), piece("b"), settled(), piece("y", sample=1), settled())
    assert shown_text == "ab\ny\n"


def test_reasoning_and_reply_are_apart_and_a_replacement_starts_anew() -> None:
    assert streamed(piece("hm", is_reasoning=True), piece("Yes"), settled()) == "hm\n\nYes\n"
    assert streamed(piece("_ _"), piece("a _", replaces=True), settled()) == "_ _\na _\n"


def test_streamed_text_is_defused() -> None:
    assert streamed(piece("\x1b]52;c;AAAA\x07red\x1b[31m"), settled()) == "]52;c;AAAAred[31m\n"


def test_a_terminal_shows_the_end_of_what_is_written() -> None:
    progress = RunProgress()
    for line in range(30):
        progress(piece(f"line {line}\n"))
    text = "\n".join(line.plain for line in LiveLines(progress).lines(Console(), 80, 24))
    assert "line 29" in text
    assert "line 3\n" not in text
