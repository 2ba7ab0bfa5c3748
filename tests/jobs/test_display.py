from __future__ import annotations

import pytest

from llmprog.jobs.display import duration, progress_line
from llmprog.jobs.progress import JobProgress
from llmprog.jobs.result import RowResult
from llmprog.jobs.terminal import live_job, print_summary
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
