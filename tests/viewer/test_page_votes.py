"""The vote of a real run: its bars, its confidence, how it came to that."""

from __future__ import annotations

import re

import pytest
from looking import expect


@pytest.fixture
def vote(open_page, puzzles):
    with open_page(puzzles.store, f"#/run/{puzzles.vote}?tab=votes") as page:
        page.get_by_test_id("vote-row").first.wait_for()
        yield page


@pytest.fixture(scope="module")
def votes(puzzles):
    """The vote as the run kept it."""
    with puzzles.store.open(puzzles.vote) as kept:
        return kept.result["votes"]


def shown(page):
    """Answers and votes as the bars show them."""
    rows = page.get_by_test_id("vote-row").all()
    return [(row.locator("span").first.inner_text(), row.locator(".number").first.inner_text()) for row in rows]


def test_each_answer_has_a_bar_as_long_as_its_votes(vote, votes):
    assert shown(vote) == [(entry["answer"], f"{entry['votes']:g}") for entry in votes["histogram"]]
    widths = [bar.evaluate("bar => parseFloat(bar.style.width)") for bar in vote.locator(".bar").all()]
    most = votes["histogram"][0]["votes"]
    assert widths == [pytest.approx(100 * entry["votes"] / most, rel=1e-4) for entry in votes["histogram"]]


def test_the_leader_its_confidence_and_the_samples_are_said(vote, votes):
    expect(vote.get_by_test_id("vote-leader")).to_have_text(votes["histogram"][0]["answer"], use_inner_text=True)
    assert (
        vote.get_by_test_id("vote-samples").inner_text() == f"{votes['num_samples']} of {votes['num_allowed']} allowed"
    )
    said = float(vote.get_by_test_id("vote-confidence").inner_text().rstrip(" %"))
    assert said == pytest.approx(100 * votes["confidence"], abs=0.51)


def test_the_slider_goes_back_to_what_the_first_samples_said(vote, votes):
    slider = vote.get_by_test_id("vote-slider")
    slider.focus()
    vote.keyboard.press("Home")
    expect(vote.get_by_test_id("vote-moment")).to_have_text("after 1 sample", use_inner_text=True)
    assert [count for _, count in shown(vote)] == ["1"]
    for _ in range(4):
        vote.keyboard.press("ArrowRight")
    expect(vote.get_by_test_id("vote-moment")).to_have_text("after 5 samples", use_inner_text=True)
    assert 1 <= sum(float(count) for _, count in shown(vote)) <= 5
    vote.keyboard.press("End")
    assert shown(vote)[0] == (votes["histogram"][0]["answer"], f"{votes['histogram'][0]['votes']:g}")


def test_a_click_in_the_course_shows_that_moment(vote, votes):
    course = vote.locator("svg.course")
    box = course.bounding_box()
    expect(vote.locator(".course-line")).to_have_count(min(5, len(votes["histogram"])) + 1)
    vote.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + box["height"] / 2)
    expect(vote.get_by_test_id("vote-moment")).to_have_text(re.compile("after (1 sample|2 samples)"))


def test_a_run_without_a_vote_has_no_such_tab(open_page, puzzles):
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=votes") as page:
        page.get_by_test_id("run-facts").wait_for()
        expect(page.locator("[data-tab=votes]")).to_have_count(0)
        expect(page.get_by_test_id("stage")).to_have_attribute("data-shown", "graph")
