"""The timeline: what it computes on known inputs, exactly, and what one sees and does in Chromium."""

from __future__ import annotations

import random

import pytest
from looking import expect
from timelines import COLUMNS_OF, attempt, call, said, slow_path, span

from llmprog.viewer import bundle

LAID = """
  const calls = new Map();
  const model = { calls, run: { elapsed_s: given.wall } };
  for (const { id, start, end, session } of given.spans) {
    const outcome = { state: "settled", source: "model", duration_s: end - start };
    calls.set(id, { id, node: "n", session, sent_at: start, outcome, attempts: [] });
  }
  const timeline = new m.Timeline(model);
  timeline.take();
"""


@pytest.fixture
def laid(module):
    """Spans laid by a timeline, which the code that is given finds as ``timeline``."""
    loaded = module("timeline_layout.js")
    return lambda code, spans, wall_s=0: loaded(LAID + code, {"spans": spans, "wall": wall_s})


def path_of(laid, spans, wall_s):
    """The critical path through spans, and what it says of the time."""
    return laid("return { ids: timeline.path.spans.map((bar) => bar.id), ...timeline.times };", spans, wall_s)


def test_the_critical_path_goes_back_to_what_ended_last_before(laid):
    spans = [span(1, 0.5, 2), span(2, 0.5, 3), span(3, 3.25, 5), span(4, 3.25, 4), span(5, 5.5, 6)]
    path = path_of(laid, spans, 6.5)
    assert path["ids"] == [2, 3, 5]
    assert path["gaps"] == [
        {"start": 0, "end": 0.5, "isIdle": True},
        {"start": 3, "end": 3.25, "isIdle": True},
        {"start": 5, "end": 5.5, "isIdle": True},
    ]
    assert (path["callsS"], path["waitingS"], path["workS"]) == (4.75, 1.25, 6.5)


def test_a_gap_is_not_idle_while_another_call_is_under_way(laid):
    path = path_of(laid, [span(1, 0, 1), span(2, 0, 3), span(3, 1.5, 4)], 4)
    assert path["ids"] == [1, 3]
    assert path["gaps"] == [{"start": 1, "end": 1.5, "isIdle": False}]


def test_times_that_were_rounded_do_not_break_the_path(laid):
    path = path_of(laid, [span(1, 0, 1.251), span(2, 1.25, 2)], 2)
    assert path["ids"] == [1, 2]
    assert path["gaps"] == []
    assert path["callsS"] == pytest.approx(2)


def test_calls_that_took_no_time_are_not_waited_for_by_those_beside_them(laid):
    path = path_of(laid, [span(1, 0, 1), *(span(n, 1.5, 1.5) for n in range(2, 7))], 2)
    assert path["ids"] == [1, 6]


def test_a_run_without_calls_has_no_path(laid):
    nothing = {"ids": [], "gaps": [], "callsS": 0, "waitingS": 0, "pauses": []}
    assert path_of(laid, [], 2.5) == {**nothing, "workS": 2.5}


def test_the_pause_of_a_resumed_run_is_neither_waiting_nor_part_of_its_time(laid):
    first = [span(1, 0.5, 2), span(2, 1, 3)]
    second = [span(3, 103, 104, 2), span(4, 104.5, 106, 2)]
    path = path_of(laid, [*first, *second], 107)
    assert path["ids"] == [2, 3, 4]
    assert path["pauses"] == [{"start": 3, "end": 103}]
    assert path["gaps"] == [{"start": 0, "end": 1, "isIdle": False}, {"start": 104, "end": 104.5, "isIdle": True}]
    assert (path["callsS"], path["waitingS"], path["workS"]) == (4.5, 1.5, 7)


def test_what_a_session_waits_for_after_a_pause_is_waiting(laid):
    later = [span(2, 50, 53), span(3, 52, 58)]
    path = path_of(laid, [span(1, 0, 3), *({**one, "session": 2} for one in later)], 58)
    assert path["ids"] == [1, 3]
    assert path["pauses"] == [{"start": 3, "end": 50}]
    assert path["gaps"] == [{"start": 50, "end": 52, "isIdle": False}]
    assert (path["callsS"], path["waitingS"], path["workS"]) == (9, 2, 11)


def test_calls_go_into_the_first_free_lane(laid):
    spans = [span(1, 0, 2), span(2, 0, 1), span(3, 0.5, 4), span(4, 1, 3), span(5, 2, 3), span(6, 3.5, 5)]
    lanes = laid("return [timeline.bars.map((bar) => bar.lane), timeline.lanes.count];", spans)
    assert lanes == [[0, 1, 2, 1, 0, 0], 3]


def test_the_calls_under_way_are_counted_from_moment_to_moment(laid):
    spans = [span(1, 0.5, 2), span(2, 0.5, 1), span(3, 1, 2), span(4, 1, 1)]
    counted = laid("const { moments, counts, most } = timeline.concurrency; return [moments, counts, most];", spans)
    assert counted == [[0, 0.5, 1, 2], [0, 2, 2, 0], 2]


@pytest.fixture
def spans_of(module):
    return lambda code, calls: module("call_spans.js")(f"return m.spansOf(given, {code}", calls)


def test_a_call_lasts_as_long_as_is_known_of_it(spans_of):
    outcome = {"state": "settled", "duration_s": 0.5}
    calls = [
        {"id": 3, "sent_at": 1, "outcome": outcome},
        {"id": 1, "sent_at": 0, "outcome": None},
        {"id": 2, "sent_at": 0, "outcome": {"state": "unknown", "duration_s": None}},
        {"id": 4, "sent_at": 2, "outcome": {"state": "failed", "duration_s": None}},
    ]
    calls = [{"attempts": [], **one} for one in calls]
    calls.append({**calls[-1], "id": 5, "attempts": [{"at": 2.5}, {"at": 4.25}]})
    spans = spans_of("9);", calls)
    assert [(one["id"], one["start"], one["end"], one["isOpen"]) for one in spans] == [
        (1, 0, 9, True), (2, 0, 9, False), (3, 1, 1.5, False), (4, 2, 2, False), (5, 2, 4.25, False),
    ]  # fmt: skip


def test_a_call_that_was_cut_off_ended_as_its_session_is_last_heard_of(spans_of):
    calls = [
        {"id": 1, "sent_at": 0, "session": 1, "outcome": {"state": "unknown", "duration_s": None}},
        {"id": 2, "sent_at": 1, "session": 1, "outcome": {"state": "settled", "duration_s": 2}},
        {"id": 3, "sent_at": 50, "session": 2, "outcome": None},
    ]
    assert spans_of("60).map((span) => span.end);", calls) == [3, 3, 60]


@pytest.mark.parametrize("seed", range(3))
def test_paths_and_lanes_are_those_of_their_definitions(laid, seed):
    chance = random.Random(seed)
    for spans in [random_spans(chance) for _ in range(60)]:
        code = "return [timeline.path.spans.map((bar) => bar.id), timeline.bars.map((bar) => bar.lane)];"
        path, lanes = laid(code, spans)
        assert path == slow_path(spans)
        assert lanes == slow_lanes(spans)


GROWN = """
  const model = new models.RunModel();
  const timeline = new m.Timeline(model);
  return given.map((batch) => {
    model.apply(batch);
    timeline.take();
    const anew = new m.Timeline(model);
    anew.take();
    const told = ({ bars, concurrency, lanes, path, times, wallS, numAttempts, nodes }) => JSON.stringify([
      bars.map(({ id, start, end, lane, kind, color, isOpen, isCritical }) =>
        [id, start, end, lane, kind, color, isOpen, isCritical]),
      concurrency, lanes.count, path.spans.map((bar) => bar.id), times, wallS, numAttempts, [...nodes],
      ["running", "settled", "failed", "cut off"].map((kind) => timeline.has(kind)),
    ]);
    return told(timeline) === told(anew);
  });
"""


@pytest.mark.parametrize("seed", range(8))
def test_what_was_laid_bit_by_bit_is_as_if_laid_at_once(page, module, seed):
    loaded = module("timeline_layout.js")
    page.evaluate(f"window.models = {bundle.script('model.js')}; 0")
    batches = random_batches(random.Random(seed))
    assert loaded(GROWN, batches) == [True] * len(batches)


def random_batches(chance):
    """A run of two sessions as it is told, in an order that is not quite that of its calls."""
    told, now, session, open_calls = [], 0.0, 1, {}
    for number in range(1, 161):
        now += chance.choice([0, 0.1, 0.3])
        if number == 120 and chance.random() < 0.5:
            session, now = 2, now + 50
        sent = call(number, f"node {number % 3}", round(now - chance.choice([0, 0, 0.2]), 3), state=None)
        told.append(sent | {"calls": [{**sent["calls"][0], "session": session}]})
        open_calls[number] = sent["calls"][0]["sent_at"]
        while open_calls and chance.random() < 0.5:
            ended = chance.choice(list(open_calls))
            state = chance.choice(["settled", "settled", "failed", "unknown"])
            lasted = None if state == "unknown" else round(max(0, now - open_calls.pop(ended) - 0.1), 3)
            open_calls.pop(ended, None)
            told.append({"outcomes": call(ended, "", 0, lasted, state=state)["outcomes"]})
            told.append(attempt(ended, now, chance.choice(["429", None])))
        told.append({"run": {"id": "r", "elapsed_s": now, "began_at": 0, "updated_at": now}})
    batches, at = [], 0
    while at < len(told):
        size = chance.randrange(1, 12)
        some = told[at : at + size]
        keys = ("calls", "outcomes", "attempts")
        run_told = [part["run"] for part in some if "run" in part]
        batch = {key: [record for part in some for record in part.get(key, ())] for key in keys}
        batches.append(batch | ({"run": run_told[-1]} if run_told else {}))
        at += size
    return [batches[0] | {"begin": True, "run": {"id": "r", "elapsed_s": 0.0}}, *batches[1:]]


def random_spans(chance):
    starts = sorted(chance.randrange(0, 300) / 10 for _ in range(chance.randrange(1, 40)))
    return [span(number, start, start + chance.randrange(0, 60) / 10) for number, start in enumerate(starts)]


def slow_lanes(spans):
    ends, lanes = [], []
    for one in spans:
        lane = next((lane for lane, end in enumerate(ends) if end <= one["start"]), len(ends))
        ends[lane:lane + 1] = [one["end"]]  # fmt: skip
        lanes.append(lane)
    return lanes


@pytest.mark.parametrize(
    ("begin", "end", "most", "moments"),
    [
        (0, 10, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.1, 0.5, 5, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (0, 90, 4, [0, 50]),
        (0, 600, 6, [0, 120, 240, 360, 480, 600]),
        (0, 400000, 5, [0, 86400, 172800, 259200, 345600]),
    ],
)
def test_the_axis_has_round_moments(module, begin, end, most, moments):
    found = module("timeline_layout.js")("return m.axisMoments(...given).moments;", [begin, end, most])
    assert found == pytest.approx(moments)


CALLS = [
    {"run": {"id": "r", "elapsed_s": 8.0}, "searches": [{"path": "", "has_goal": True}]},
    call(1, "propose", 0, 2),
    call(2, "judge", 2.0, 2),
    call(3, "judge", 2.0, 1, state="failed", error="HTTP 500: overloaded"),
    call(4, "judge", 3.0, 0.0, source="cache"),
    call(5, "propose", 5.0, state=None),
    attempt(2, 2.4, "429"),
    attempt(1, 0.5, None),
]


@pytest.fixture
def timeline(mount):
    return mount("timeline_view.js", "createTimelineView", CALLS)


def spot(page, moment, lane):
    """Where on the screen a moment of a lane is, of the whole run on 8 seconds."""
    box = page.get_by_test_id("timeline-canvas").bounding_box()
    return box["x"] + 12 + moment * (box["width"] - 24) / 8, box["y"] + 124 + 22 * lane + 10


def test_the_timeline_says_what_the_time_went_into(timeline):
    facts = timeline.get_by_test_id("timeline-facts").inner_text().replace("\n", " ")
    assert "Calls 5, up to 2 at a time" in facts
    assert "Critical path 3 calls, 7.0 s (88 % of the time), waiting 1.0 s" in facts
    assert "Tried again after 1 failure, 1 rate limit" in facts
    expect(timeline.get_by_test_id("timeline-sessions")).to_be_hidden()  # it was never resumed
    legend = timeline.get_by_test_id("timeline-legend").inner_text().split("\n")
    assert legend == [
        "propose", "judge", "on the critical path", "failed", "from a cache", "under way",
        "rate limit, tried again", "failed, tried again",
    ]  # fmt: skip


def test_a_call_is_pointed_at_and_selected(timeline):
    timeline.mouse.move(*spot(timeline, 2.5, 1))
    tip = timeline.get_by_test_id("timeline-tip")
    assert tip.inner_text().split("\n") == [
        "Call 3: judge, 1 sample", "failed, sent at 2.0 s, took 1.0 s", "HTTP 500: overloaded",
    ]  # fmt: skip
    timeline.mouse.move(*spot(timeline, 4.5, 3))
    expect(tip).to_be_hidden()
    timeline.mouse.click(*spot(timeline, 1, 0))
    assert timeline.evaluate("picked") == [1]
    assert said(timeline).startswith("Call 1: propose")
    assert "1 failed attempt; the last: no" in said(timeline)


def test_keys_go_from_call_to_call_in_the_order_of_sending(timeline):
    timeline.get_by_test_id("timeline-canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Escape"):
        timeline.keyboard.press(key)
    assert timeline.evaluate("picked") == [1, 2, 3, 2, None]
    assert said(timeline) == ""


def test_zooming_keeps_the_moment_under_the_pointer(timeline):
    place = spot(timeline, 2.5, 1)
    timeline.mouse.move(*place)
    for _ in range(6):
        timeline.mouse.wheel(0, -200)
    timeline.mouse.click(*place)
    assert timeline.evaluate("picked") == [3]
    timeline.mouse.click(*spot(timeline, 1, 0))
    assert timeline.evaluate("picked.at(-1)") == 2  # what is shown there now; call 1 is out of sight
    timeline.get_by_test_id("timeline-fit").click()
    timeline.mouse.click(*spot(timeline, 1, 0))
    assert timeline.evaluate("picked.at(-1)") == 1


def test_a_selected_call_comes_into_sight(timeline):
    timeline.mouse.move(*spot(timeline, 7.9, 0))
    for _ in range(6):
        timeline.mouse.wheel(0, -200)
    timeline.evaluate("view.select(1)")
    timeline.mouse.click(640, spot(timeline, 0, 0)[1])
    assert timeline.evaluate("picked") == [1]


def test_rate_limits_and_other_failures_have_colours_of_their_own(timeline, painted):
    drawn = painted("timeline-canvas")
    lane = 20
    assert lane <= drawn[painted.of("--rate-limit")] <= 4 * lane
    assert drawn[painted.of("--invalid")] > lane


def test_a_failed_attempt_is_marked_where_it_failed(timeline, painted):
    painted("timeline-canvas")
    canvas = timeline.get_by_test_id("timeline-canvas")
    columns = canvas.evaluate(COLUMNS_OF, painted.of("--rate-limit"))
    expected = 12 + 2.4 * (canvas.bounding_box()["width"] - 24) / 8
    assert columns
    assert all(abs(column - expected) <= 2 for column in columns)


def test_a_run_that_was_forked_and_resumed_shows_the_time_of_its_own_calls(mount):
    def of_session(number, records):
        return {**records, "calls": [{**records["calls"][0], "session": number}]}

    batches = [
        {"run": {"id": "r", "elapsed_s": 6.0, "forked_from": "older", "began_at": 1000.0, "updated_at": 1006.0}},
        of_session(1, call(1, "propose", -500.0, 2, source="fork")),
        of_session(2, call(2, "propose", 0.5, 1.5)),
        of_session(3, call(3, "judge", 3602.0, 2)),
    ]
    page = mount("timeline_view.js", "createTimelineView", batches)
    facts = page.get_by_test_id("timeline-facts").inner_text().replace("\n", " ")
    assert "Time 4.0 s, and paused for 1 h " in facts
    assert "Calls 2, up to 1 at a time" in facts
    assert "Critical path 2 calls, 3.5 s (88 % of the time), waiting 500 ms" in facts
    assert "Taken over 1 call of older" in facts
    page.get_by_test_id("timeline-canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("picked") == [2]
    sessions = page.get_by_test_id("timeline-sessions")
    expect(sessions.locator("option")).to_have_text(
        ["Go to…", "Session 1, after 0 ms", "Session 2, after 1 h"], use_inner_text=True
    )
    sessions.select_option(index=2)  # in which the other call is all that there is to hit
    box = page.get_by_test_id("timeline-canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 124 + 10)
    assert page.evaluate("picked") == [2, 3]


def test_a_session_that_asked_nothing_does_not_make_the_timeline_longer(mount):
    def of_session(number, records):
        return {**records, "calls": [{**records["calls"][0], "session": number}]}

    run = {"id": "r", "elapsed_s": 5.0, "began_at": 1000.0, "updated_at": 9000.0, "sessions": 3}
    page = mount(
        "timeline_view.js",
        "createTimelineView",
        [{"run": run}, of_session(1, call(1, "propose", 0.0, 2)), of_session(2, call(2, "judge", 602.0, 2))],
    )
    facts = page.get_by_test_id("timeline-facts").inner_text().replace("\n", " ")
    assert "Time 4.0 s, and paused for 10 min" in facts
    assert "Critical path 2 calls, 4.0 s (100 % of the time)" in facts


def test_the_picture_follows_the_colours_of_the_page(timeline, painted):
    timeline.emulate_media(color_scheme="dark")
    drawn = painted("timeline-canvas")
    assert max(drawn, key=drawn.get) == painted.of("--surface") == "#1b1f24"


def test_calls_that_come_later_appear(timeline):
    later = [{"outcomes": call(5, "propose", 5.0, 2)["outcomes"]}, call(6, "answer", 7.5, 0.5)]
    timeline.evaluate("batches => batches.forEach((batch) => model.apply(batch))", later)
    timeline.locator("canvas[data-drawn='6']").wait_for()
    facts = timeline.get_by_test_id("timeline-facts").inner_text()
    assert "4 calls, 6.5 s" in facts
    assert "under way" not in timeline.get_by_test_id("timeline-legend").inner_text()


def test_the_timeline_of_a_real_run(open_page, puzzles):
    with puzzles.store.open(puzzles.game) as kept:
        calls, usage = list(kept.calls()), kept.usage
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=timeline") as page:
        page.locator(f"[data-testid=timeline-canvas][data-drawn='{len(calls)}']").wait_for()
        facts = page.get_by_test_id("timeline-facts").inner_text()
        assert f"{len(calls):,} for {usage.calls:,} samples, up to" in facts
        counted = page.locator("[data-fact=calls]")
        assert counted.inner_text().split()[-1] == f"{usage.calls:,}"
        assert "once for each" in counted.get_attribute("title")
        page.get_by_test_id("timeline-canvas").focus()
        page.keyboard.press("ArrowRight")
        first = calls[0]
        assert said(page).startswith(f"Call {first.id}: {first.node}, ")
        page.wait_for_url(f"**call={first.id}*")
        expect(page.get_by_test_id("pane")).to_contain_text(str(first.id), use_inner_text=True)
