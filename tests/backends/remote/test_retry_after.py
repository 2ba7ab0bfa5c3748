import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.remote.retry_after import LONGEST_S, duration_s, retry_after_s

NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC


@pytest.mark.fault("network", "Retry-After: each form, past, NaN, 10⁹", "read, 0, skipped, at most a day")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20.0),
        (" 20 ", 20.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("1m30s", 90.0),
        ("6m0s", 360.0),
        ("1h0m2.5s", 3602.5),
        ("88ms", 0.088),
        ("7.66s", 7.66),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
        ("Monday, 21-Sep-26 14:13:50 GMT", 30.0),
        ("Mon Sep 21 14:13:50 2026", 30.0),
        ("2026-09-21T14:14:20Z", 60.0),
        ("2026-09-21T16:14:20+02:00", 60.0),
        ("2026-09-21T14:13:20.250Z", 0.25),
        ("1790000012", 12.0),  # an epoch time
        ("1790000012500", 12.5),  # in milliseconds
        ("1789999000", 0.0),  # past
        ("Mon, 21 Sep 2020 14:13:50 GMT", 0.0),
        ("2020-09-21T14:14:20Z", 0.0),
        ("-5", 0.0),
        ("1000000000", LONGEST_S),
        ("1e9", None),
        ("9" * 60, LONGEST_S),
        ("9" * 400, None),
        ("99999999999999999999d", LONGEST_S),
        ("NaN", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        ("1m30", None),
        ("1_000", None),
        ("٣", None),
        ("Mon, 99 Sep 2026 14:13:50 GMT", None),
        ("Mon, 21 Sep 99999999999999 14:13:50 GMT", None),
    ],
)
def test_every_form_of_retry_after_is_read(value, seconds):
    assert retry_after_s({"retry-after": value}, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_milliseconds_come_first_and_no_header_says_nothing():
    assert retry_after_s({}, NOW) is None
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}, NOW) == 0.25
    assert retry_after_s({"retry-after-ms": "many", "retry-after": "9"}, NOW) == 9.0


@pytest.mark.fault("process", "wall clock ± 1 day", "Retry-After is measured from the answer's own date")
def test_a_wrong_clock_does_not_matter_where_the_answer_carries_its_date():
    headers = {"date": "Mon, 21 Sep 2026 14:13:20 GMT", "retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}
    for clock in (NOW, NOW - 86_400, NOW + 86_400):
        assert retry_after_s(headers, clock) == 30.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1.0),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-reset-tokens": "40s",
                "x-ratelimit-remaining-requests": "99",
                "x-ratelimit-remaining-tokens": "0",
            },
            40.0,
        ),
        (
            {
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:14:20Z",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:25Z",
                "anthropic-ratelimit-output-tokens-remaining": "0",
            },
            60.0,
        ),
        ({"x-ratelimit-reset": "1790000030000"}, 30.0),
        ({"ratelimit-reset": "17", "ratelimit-remaining": "0"}, 17.0),
        ({"x-ratelimit-reset-tokens": "garbage"}, None),
        ({"x-ratelimit-reset-requests": "9s", "retry-after": "2"}, 2.0),
    ],
)
def test_reset_headers_are_read_where_nothing_better_is_there(headers, seconds):
    assert retry_after_s(headers, NOW) == seconds


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset"]), st.text()))
def test_no_header_value_raises_or_gives_a_wait_out_of_bounds(headers):
    wait = retry_after_s(headers, NOW)
    assert wait is None or (math.isfinite(wait) and 0 <= wait <= LONGEST_S)


def test_a_duration_has_a_unit():
    assert duration_s("17s") == 17.0
    assert duration_s("17") is None
    assert duration_s("") is None
