"""What the terminal shows: hostile text is defused, the tree keeps the solution in view."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.nodes import Verdict
from llmprog.search import BeamSearch, SelfConsistency
from llmprog.terminal import Progress, answer_line, graph_tree, live_progress, plain, print_result, spent_line


def shown(renderable: object, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


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
    text = console.file.getvalue()  # type: ignore[attr-defined]
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
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert progress.num_thoughts > 10


def test_progress_counts_what_happened() -> None:
    progress = Progress()
    result = words.run("", seed=1, on_event=progress)
    assert progress.num_thoughts == len(result.graph)
    assert progress.line().startswith(f"{len(result.graph)} thoughts, ")
