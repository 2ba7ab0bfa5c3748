"""What results, programs and rows show of themselves in notebooks."""

from __future__ import annotations

import pytest

from llmprog import Budget, Program, generator
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Map, Sequence
from llmprog.jobs.result import RowError, RowResult
from llmprog.search import BeamSearch, BestOfN, SelfConsistency


@generator(prompt="{state}", name="say")
def say(state: str, completion: str) -> list[str]:
    return [completion]


def saying(name="saying", **options):
    return Program(name=name, generators=[say], controller=SelfConsistency(num_samples=4), **options)


BACKEND = ScriptedBackend(lambda text, sample: "ab"[sample % 2])


def test_a_result_says_why_there_is_no_answer():
    @generator
    def none(state: str) -> list[str]:
        return []

    program = Program(
        generators=[none],
        controller=BeamSearch(beam_width=1, max_depth=1),
        goal=lambda state: False,
        explain=lambda start: f"nothing comes of <{start}>",
    )
    html = program.run("it", seed=1)._repr_html_()
    assert "Not solved: nothing comes of &lt;it&gt;" in html


def test_a_result_says_that_the_budget_is_spent():
    html = saying().run("q", backend=BACKEND, seed=1, budget=Budget(calls=2))._repr_html_()
    assert "budget (calls: 2 of 2 spent" in html


def test_a_kept_run_says_how_to_view_it(tmp_path):
    result = saying().run("q", backend=BACKEND, seed=1, store=tmp_path)
    assert f"llmprog view {result.run_id}" in result._repr_html_()


def test_of_many_parts_some_are_shown_and_the_rest_is_counted():
    inner = Sequence(saying("one"), saying("two"), name="inner")
    result = Map(inner).run([f"q{number}" for number in range(100)], backend=BACKEND, seed=1)
    html = result._repr_html_()
    assert html.count("<summary") < 100
    assert "80 more in .parts" in html
    assert "2 more in .parts" in html
    assert len(html) < 300_000


def test_a_joined_program_shows_its_parts_within():
    html = Sequence(saying("one"), saying("two"), name="both")._repr_html_()
    assert html.count("<svg") == 3
    assert "part one" in html


def test_parameters_are_shown():
    html = Program(name="best", generators=[say], controller=BestOfN(num_samples=7))._repr_html_()
    assert "BestOfN&#x27;s parameters" in html
    assert "num_samples=7" in html


SOLVED = RowResult(index=3, row={"q": "1 + 1"}, answer="2", solved=True, correct=True, stopped="goal", seed=1)
FAILED = RowResult(index=3, row=None, stopped="error", seed=1, error=RowError("InputError", "no number"))
VOTED = RowResult(index=3, row={}, answer="2", stopped="num_samples", votes=(("2", 3.0),), num_samples=4, seed=1)


@pytest.mark.parametrize(("row", "shown"), [(SOLVED, "correct"), (FAILED, "InputError: no"), (VOTED, "<svg")])
def test_a_row_shows_what_it_came_to(row, shown):
    assert "row 3" in row._repr_html_()
    assert shown in row._repr_html_()
