"""What notebooks are given, with hostile texts in every place: a real browser shows it, and that is all."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.jobs.result import RowError, RowResult
from llmprog.nodes import Verdict
from llmprog.notebook import view_html
from llmprog.pictures import draw_votes
from llmprog.progress import RunProgress
from llmprog.search import BreadthFirstSearch, SelfConsistency

TEXTS = runpy.run_path(str(Path(__file__).parent / "hostile_texts.py"))["TEXTS"]
WATCH = "globalThis.numRan = 0; globalThis.ran = () => { globalThis.numRan += 1; }; 0"
ELEMENTS = {
    *("div", "span", "table", "tbody", "tr", "td", "th", "details", "summary", "ol", "li", "pre"),
    *("svg", "g", "rect", "text", "path", "title"),
}
HANDLERS = "[...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames()).filter((n) => /^on/.test(n))"


@generator(prompt="{state}", n=len(TEXTS), name="<img src=x onerror=ran()>")
def grow(state: str, completion: str) -> list[str]:
    return [completion]


@checker(name="</title><script>ran()</script>")
def judge(state: str) -> Verdict:
    number = TEXTS.index(state) if state in TEXTS else 0
    return Verdict(valid=number % 3 != 1, score=number / 10, reason=TEXTS[(number + 1) % len(TEXTS)])


@pytest.fixture(scope="module")
def pieces():
    """Everything that shows itself in notebooks, and the views of a run at each of its events."""
    backend = ScriptedBackend(lambda prompt, sample: TEXTS[sample % len(TEXTS)])
    search = Program(
        name="<script>ran()</script>",
        generators=[grow],
        checkers=[judge],
        controller=BreadthFirstSearch(max_depth=1, stop_on_goal=False),
        goal=lambda state: state == TEXTS[40],
    )
    vote = Program(name="vote", generators=[grow], controller=SelfConsistency(num_samples=len(TEXTS)))
    progress, views = RunProgress(), []

    def watch(event):
        progress(event)
        views.append(view_html(progress.glance(max_frontier=300), TEXTS[len(views) % len(TEXTS)]))

    found = search.run("start", backend=backend, seed=1, on_event=watch, stream=True)
    voted = vote.run("start", backend=backend, seed=1, on_event=watch, stream=True)
    rows = [
        RowResult(index=n, row={text: text}, answer=text, stopped=text, seed=0, votes=((text, 2.0),), num_samples=2)
        for n, text in enumerate(TEXTS)
    ]
    rows += [RowResult(index=n, row=None, stopped="", seed=0, error=RowError(t, t)) for n, t in enumerate(TEXTS)]
    faulty = Program(name=TEXTS[0], generators=[], controller=TEXTS[1])
    shown = [search, faulty, found, found.graph, voted, voted.votes, *rows]
    votes = [draw_votes([(text, 1.0)], text).inline() for text in TEXTS]
    return [*(value._repr_html_() for value in shown), *votes, found.graph.to_svg(), *views[:: len(views) // 40]]


def test_hostile_texts_are_shown_in_notebooks_and_do_nothing(watched, pieces):
    page = watched.page
    page.goto("about:blank")
    page.evaluate(WATCH)
    for piece in pieces:
        # Scripts that are written into a page run; those that are set as its HTML would not.
        page.evaluate("piece => { document.open(); document.write(piece); document.close(); }", piece)
    page.set_content("<!doctype html><body>" + "".join(pieces))
    for summary in page.locator("summary").all()[:40]:
        summary.click()
    page.mouse.move(300, 300)
    names = set(page.evaluate("[...document.body.querySelectorAll('*')].map((e) => e.localName)"))
    assert names <= ELEMENTS
    assert page.evaluate(HANDLERS) == []
    assert "<script>ran()</script>" in page.inner_text("body")
    assert page.evaluate("globalThis.numRan") == 0
    assert page.evaluate("ran(), globalThis.numRan") == 1, "it would have been counted"
    assert [address for address in watched.requests if not address.startswith("about:")] == []
    assert watched.said == []
    assert watched.dialogs == []
