from __future__ import annotations

import pytest

from llmprog.events import CallSettled
from llmprog.jobs.progress import JobProgress, wilson_interval
from llmprog.jobs.result import RowError, RowResult
from llmprog.types import Usage


def row(index, *, correct=None, error=None, is_recalled=False):
    return RowResult(
        index=index,
        row={},
        answer=None if error else "4",
        solved=error is None,
        stopped="num_samples",
        correct=correct,
        error=None if error is None else RowError("NodeError", error),
        seed=0,
        is_recalled=is_recalled,
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (90, 100, 0.8256, 0.9448)],
)
def test_the_interval_is_wilsons(successes, trials, low, high):
    assert wilson_interval(successes, trials) == (
        successes / trials,
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )


def test_rows_are_counted_by_what_they_came_to():
    progress = JobProgress()
    for result in (row(0, correct=True), row(1, correct=False), row(2, error="bad"), row(3, is_recalled=True)):
        progress.take_row(result)
    assert (progress.num_rows, progress.num_recalled, progress.num_solved, progress.num_failed) == (4, 1, 3, 1)
    assert (progress.num_judged, progress.num_correct) == (2, 1)
    assert progress.accuracy[0] == 0.5
    assert JobProgress().accuracy is None


def test_rates_and_the_time_left_are_of_this_session_alone():
    now = 100.0
    progress = JobProgress(clock=lambda: now)
    progress.total = 50
    for index in range(20):
        progress.take_row(row(index, is_recalled=True))
    assert progress.remaining_s is None
    now = 105.0
    for index in range(20, 30):
        progress.take_row(row(index))
    assert progress.rows_per_s == 2
    assert progress.remaining_s == 10
    assert progress.session_s == 5


def test_recalled_calls_cost_nothing_now():
    progress = JobProgress()
    progress.usage = Usage(10, 0, 100, 0.5)  # of earlier sessions
    usage = Usage(1, 5, 10, 0.25)
    progress.take_event(0, CallSettled("think", None, usage, 0.1))
    progress.take_event(0, CallSettled("think", None, usage, 0.0, is_recalled=True))
    assert (progress.usage.calls, progress.usage.usd, progress.num_calls) == (11, 0.75, 1)
