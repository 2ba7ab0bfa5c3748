from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmprog.events import VotesChanged
from llmprog.jobs.display import duration, job_html, progress_line
from llmprog.jobs.progress import JobProgress
from llmprog.jobs.result import RowResult
from llmprog.jobs.terminal import JobLines, live_job, print_summary
from llmprog.search import VoteResult
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.types import Usage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_in_units_that_fit(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def progress():
    now = 10.0
    made = JobProgress(clock=lambda: now)
    now = 20.0
    made.run_id, made.total, made.num_calls = "20261122-064501-k3f9", 40, 30
    made.usage = Usage(90, 1000, 200, None)
    for index in range(30):
        made.take_row(
            RowResult(
                index=index,
                row={},
                answer="4",
                solved=True,
                stopped="num_samples",
                correct=index % 2 == 0,
                seed=0,
                is_recalled=index < 10,
            )
        )
    return made


def test_the_line_shows_rows_rates_cost_time_left_and_errors(progress):
    assert progress_line(progress) == (
        "30 of 40 rows, 10 of them earlier, 2 rows/s, 3 calls/s, 90 calls, 1200 tokens, unknown cost, 5 s left, "
        "50.0% correct, 0 failed"
    )
    assert progress_line(JobProgress(clock=lambda: 0.0)).startswith(
        "0 rows, 0 rows/s, 0 calls/s, 0 calls, 0 tokens, $0"
    )


def voted(index, num_samples, *, num_allowed=20, answers=("4", "5")):
    return RowResult(
        index=index,
        row={},
        answer="4",
        solved=True,
        stopped="confident",
        votes=tuple((answer, 1.0) for answer in answers),
        num_samples=num_samples,
        num_allowed=num_allowed,
        seed=0,
    )


def heard(progress, row, *answers, num_samples=7):
    """A row has begun to vote."""
    histogram = tuple((answer, float(len(answers) - place)) for place, answer in enumerate(answers))
    votes = VoteResult(
        histogram=histogram, confidence=0.93, num_samples=num_samples, num_valid=num_samples, num_allowed=20
    )
    progress.take_event(row, VotesChanged(votes, num_samples, graph=ThoughtGraph()))


def test_the_line_and_the_summary_say_how_votes_ended(progress, capsys):
    assert "vote" not in progress_line(progress)
    progress.take_row(voted(30, 5))
    progress.take_row(voted(31, 20))
    assert progress_line(progress).endswith(", 0 failed; 1 of 2 votes decided early, 12.5 of 20 samples each")
    print_summary(progress, "out.jsonl")
    assert "1 of 2 votes decided early, 12.5 of 20 samples each" in capsys.readouterr().out.splitlines()


def test_the_summary_is_silent_about_votes_that_heard_all(progress, capsys):
    progress.take_row(voted(31, 20))
    print_summary(progress, "out.jsonl")
    assert "vote" not in capsys.readouterr().out


def shown(progress, room=24, width=79):
    return [line.plain.rstrip() for line in JobLines(progress).lines(Console(width=width + 1), width, room)]


def test_a_terminal_shows_the_votes_of_rows_in_hand_below_the_counts(progress):
    progress.take_row(voted(30, 5))
    heard(progress, 31, "86", "57")
    heard(progress, 32)  # nobody has voted yet
    heard(progress, 33, "\x1b[2Jnine")
    lines = shown(progress)
    assert lines[0] == "━" * 31 + "─" * 9
    assert lines[1].startswith("31 of 40 rows, ")
    assert lines[3:] == [
        "1 of 1 votes decided early, 5 of 20 samples each",
        "row 31     ███████████       86  2 of 3 votes, 93% sure, 7 of 20 samples",
        "row 33     ████████████████  [2Jnine  1 of 1 votes, 93% sure, 7 of 20 samples",
    ]
    for row in range(34, 60):
        heard(progress, row, "4")
    assert len(shown(progress)) == 4 + 6
    assert len(shown(progress, room=3)) == 3


HOSTILE = [
    "\x1b[2J\x1b[H",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x9b2J",
    "\r\r",
    "\n" * 9,
    "\u202eabc",
    "漢" * 90,
    "\ud800",
    "[b]x[/]",
]


@given(st.lists(st.text() | st.sampled_from(HOSTILE), min_size=1, max_size=4, unique=True), st.integers(12, 90))
def test_no_answer_breaks_a_line(answers, width):
    progress = JobProgress(clock=lambda: 0.0)
    heard(progress, 3, *answers)
    (line,) = JobLines(progress).lines(Console(width=width), width, 24)[-1:]
    assert line.plain.isprintable()
    assert line.plain.startswith("row 3")


def test_a_notebook_shows_the_same_and_hostile_answers_as_text(progress):
    progress.take_row(voted(30, 5))
    heard(progress, 31, "<script>alert(1)</script>\x1b[2J", "57")
    html = job_html(progress, "<b>name</b>", is_under_way=True)
    ET.fromstring(html)  # noqa: S314 - our own
    assert "&lt;b&gt;name&lt;/b&gt;" in html
    assert "31 of 40 rows, " in html
    assert "width:77.5%" in html
    assert "1 of 1 votes decided early, 5 of 20 samples each" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J" in html
    assert "2 of 3 votes, 93% sure, 7 of 20 samples" in html
    assert "<script" not in html
    over = job_html(progress, "name", is_under_way=False)
    assert "script" not in over
    assert "31 of 40 rows, " in over


def test_the_summary_says_what_came_of_it_and_shows_no_control_characters(progress, capsys):
    print_summary(progress, "out\x1b[2J.jsonl")
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        "30 of 40 rows: 30 answered, 0 failed",
        "15 of 30 correct: 50.0% (95 % interval 33.2% to 66.8%)",
        "90 calls, 1200 tokens, unknown cost, 10 s",
        "output: out[2J.jsonl",
        "run: 20261122-064501-k3f9",
    ]


def test_nothing_is_shown_where_nothing_is_wanted(progress, capsys):
    with live_job(progress, enabled=False):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end(progress, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with live_job(progress, enabled=True):
        pass
    shown = capsys.readouterr().err
    assert "30 of 40 rows" in shown
    assert "━" in shown


def test_with_no_color_a_terminal_gets_no_bar(progress, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    with live_job(progress, enabled=True):
        pass
    assert capsys.readouterr().err == ""
