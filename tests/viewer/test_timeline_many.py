"""The timeline of twenty thousand calls."""

from __future__ import annotations

import random

import pytest
from timelines import COLUMNS_OF, attempt, call, said, slow_path, span

from llmprog.viewer import bundle

MANY = 20_000
AT_ONCE = 40


def many_calls():
    """Twenty thousand calls, forty at a time; of a hundred one fails and another is tried again."""
    chance = random.Random(7)
    free_at = [0.0] * AT_ONCE
    batches = [{"begin": True, "run": {"id": "r", "elapsed_s": 0.0}, "searches": [{"path": "", "has_goal": True}]}]
    records = {"calls": [], "outcomes": [], "attempts": []}
    for number in range(1, MANY + 1):
        lane = min(range(AT_ONCE), key=free_at.__getitem__)
        sent_at, lasted = round(free_at[lane], 6), round(chance.uniform(0.05, 0.4), 6)
        free_at[lane] = sent_at + lasted + 0.001
        state = "settled" if number % 100 else "failed"
        made = call(number, f"node {number % 3}", sent_at, lasted, state=state)
        tried = (
            attempt(number, sent_at + lasted / 2, "429" if number % 200 == 50 else None) if number % 100 == 50 else {}
        )
        for key in records:
            records[key] += (made | tried).get(key, [])
    batches.append(records | {"run": {"id": "r", "elapsed_s": max(free_at)}})
    return batches


@pytest.fixture
def many(mount):
    return mount("timeline_view.js", "createTimelineView", many_calls())


def test_twenty_thousand_calls_hide_none_that_failed(many, painted):
    """All lanes are in view and a call is narrower than a pixel: each failure keeps a column of its lane."""
    drawn = painted("timeline-canvas")
    columns = many.get_by_test_id("timeline-canvas").evaluate(COLUMNS_OF, painted.of("--invalid"))
    limits = many.get_by_test_id("timeline-canvas").evaluate(COLUMNS_OF, painted.of("--rate-limit"))
    assert len(columns) > 200
    assert len(limits) > 150
    assert drawn[painted.of("--invalid")] > 200 * 2 * 5
    facts = many.get_by_test_id("timeline-facts").inner_text().replace("\n", " ")
    assert "Calls 20,000, up to 40 at a time" in facts
    assert "Tried again after 100 failures, 100 rate limits" in facts


def test_of_twenty_thousand_calls_each_is_found_by_pointer_and_keys(many):
    canvas = many.get_by_test_id("timeline-canvas")
    canvas.focus()
    for number in (1, 9_999, 15_000, MANY):
        many.evaluate("id => view.select(id)", number)
        assert said(many).startswith(f"Call {number}: node {number % 3}")
        many.keyboard.press("ArrowRight" if number < MANY else "ArrowLeft")
        expected = number + 1 if number < MANY else number - 1
        assert many.evaluate("picked.at(-1)") == expected
    # The last that was selected is in sight, and after some zooming it can be pointed at, too.
    box = canvas.bounding_box()
    for _ in range(12):
        many.get_by_test_id("timeline-zoom-in").click()
    many.evaluate("view.select(15_000)")
    many.mouse.move(0, 0)
    found = many.evaluate(
        """([left, top, width, height]) => {
          const canvas = document.querySelector("[data-testid=timeline-canvas]");
          const tip = document.querySelector("[data-testid=timeline-tip]");
          for (let y = top + 126; y < top + height; y += 3) {
            canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: left + width / 2, clientY: y }));
            if (!tip.hidden && tip.textContent.startsWith("Call 15000:")) {
              return tip.textContent;
            }
          }
          return null;
        }""",
        [box["x"], box["y"], box["width"], box["height"]],
    )
    assert found is not None
    assert "failed" in found


def test_the_critical_path_of_twenty_thousand_calls_is_that_of_its_definition(many):
    told = many.evaluate(
        "[...model.calls.values()].map(({ id, sent_at, outcome }) => [id, sent_at, outcome.duration_s])"
    )
    spans = [span(number, sent_at, sent_at + lasted) for number, sent_at, lasted in told]
    path = slow_path(spans)
    facts = many.get_by_test_id("timeline-facts").inner_text()
    assert f"{len(path):,} calls" in facts


def test_calls_that_are_added_to_twenty_thousand_cost_no_more_than_themselves(many):
    """A few more take less than a fifth of the time that all took: the others stay as they lie."""
    took = many.evaluate(
        """async ([code, later]) => {
          const { Timeline } = eval(code);
          const timed = (one) => {
            const begun = performance.now();
            one.take();
            return performance.now() - begun;
          };
          const timeline = new Timeline(model);
          timeline.take();
          const again = [];
          for (const batch of later) {
            model.apply(batch);
            again.push(timed(timeline));
          }
          const anew = [1, 2, 3, 4, 5].map(() => timed(new Timeline(model)));
          return [Math.min(...again), Math.min(...anew)];
        }""",
        [bundle.script("timeline_layout.js"), added(MANY, 12)],
    )
    assert took[0] < took[1] / 5


def added(first, count):
    """Batches of calls that come after the others, one after the other."""
    return [
        call(number, "node 1", 130 + number / 1000, 0.5) | {"run": {"id": "r", "elapsed_s": 130 + number / 1000}}
        for number in range(first + 1, first + count + 1)
    ]
