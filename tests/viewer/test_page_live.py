"""The page of a run that is under way, that was cut off, whose connection is lost, that is a job of many rows."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from looking import expect

from llmprog import map as run_map
from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError
from llmprog.programs import arithmetic

WORKER = Path(__file__).parent / "worker.py"


def text(page, testid):
    return page.get_by_test_id(testid).inner_text()


def test_a_run_is_followed_as_it_goes_on(open_page, store, under_way):
    with under_way(store, before=2, num_samples=5) as (model, run_id), open_page(store, f"#/run/{run_id}") as page:
        page.get_by_test_id("run-status").get_by_text("running").wait_for()
        page.locator("[data-tab=calls]").click()
        page.get_by_test_id("calls-row").nth(4).click()
        page.get_by_test_id("call-head").get_by_text("under way").wait_for()
        model.go.set()
        page.get_by_test_id("call-answers").locator("pre").first.wait_for()
        page.get_by_test_id("call-head").get_by_text("settled").wait_for()
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()
        page.locator("[data-tab=votes]").click()
        page.get_by_test_id("vote-samples").get_by_text("5 of 5 allowed").wait_for()
        page.locator("[data-connection=over]").wait_for()


def test_what_is_new_does_not_move_what_is_read(open_page, store, under_way):
    begun = under_way(store, before=2, num_samples=9)
    with begun as (model, run_id), open_page(store, f"#/run/{run_id}?tab=thoughts&thought=1") as page:
        page.set_viewport_size({"width": 1280, "height": 500})
        prompt = page.get_by_test_id("thought-prompt").locator("pre")
        prompt.wait_for()
        prompt.evaluate("prompt => { prompt.mark = 'the same'; prompt.scrollIntoView(); }")
        before = prompt.bounding_box()["y"]
        model.go.set()
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()
        page.get_by_test_id("thoughts-row").nth(3).wait_for()
        assert prompt.evaluate("prompt => prompt.mark") == "the same"
        expect(page.get_by_test_id("thought-title")).to_have_text("Thought 1", use_inner_text=True)
        page.get_by_test_id("thought-origin").get_by_text("Reached again").wait_for()
        assert abs(prompt.bounding_box()["y"] - before) <= 2


def test_a_lost_connection_is_said_and_taken_up_again(open_page, store, under_way):
    with under_way(store) as (model, run_id), open_page(store) as page:
        page.route("**/feed", lambda route: route.abort())
        page.evaluate("id => { location.hash = '#/run/' + id }", run_id)
        said = page.get_by_test_id("connection").get_by_text("Connection lost")
        said.wait_for()
        expect(page.get_by_test_id("connection")).to_contain_text("llmprog view", use_inner_text=True)
        page.unroute("**/feed")
        page.get_by_test_id("run-status").get_by_text("running").wait_for()
        expect(page.get_by_test_id("connection")).to_be_hidden()
        model.go.set()
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()


def test_a_run_that_is_killed_says_that_it_was_interrupted(open_page, store):
    worker = subprocess.Popen([sys.executable, str(WORKER), str(store.directory)], stdout=subprocess.PIPE)
    try:
        assert worker.stdout.readline() == b"waits\n"
        (kept,) = store.list()
        with open_page(store, f"#/run/{kept.id}?tab=calls") as page:
            page.get_by_test_id("calls-row").nth(2).click()
            page.get_by_test_id("call-head").get_by_text("under way").wait_for()
            worker.kill()
            page.get_by_test_id("run-status").get_by_text("interrupted").wait_for()
            page.get_by_test_id("call-head").get_by_text("cut off").wait_for()
            expect(page.get_by_test_id("calls-row")).to_have_count(3)
            page.locator("[data-tab=thoughts]").click()
            page.get_by_test_id("thoughts-row").first.wait_for()
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_failures_are_folded_and_the_reason_is_said(open_page, store):
    def broken(prompt, sample):
        if sample == 3:
            raise OSError("the line is dead")
        return "Answer: 42"

    with pytest.raises(BackendError):
        run(arithmetic(num_samples=5), "17 + 25", backend=ScriptedBackend(broken), seed=1, store=store)
    with open_page(store, f"#/run/{store.list()[0].id}") as page:
        failures = page.get_by_test_id("run-failures")
        failures.locator("summary").click()
        expect(failures).to_contain_text("the line is dead", use_inner_text=True)
        page.locator("[data-tab=calls]").click()
        page.get_by_test_id("calls-row").get_by_text("failed").first.click()
        expect(page.get_by_test_id("call-head")).to_contain_text("the line is dead", use_inner_text=True)
        took = page.get_by_test_id("call-head").locator("dt", has_text="took").locator("+ dd").inner_text()
        assert re.fullmatch(r"[\d.]+ m?s", took)


def test_the_rows_of_a_job_lead_to_their_searches(open_page, store):
    model = ScriptedBackend(lambda prompt, sample: "Answer: 42" if "17 + 25" in prompt else "Answer: 7")
    inputs = [{"input": f"{number} + 25", "right": "42"} for number in (16, 17, 18)]
    run_map(arithmetic(num_samples=3), inputs, gold="right", backend=model, seed=1, store=store)
    with open_page(store, f"#/run/{store.list()[0].id}") as page:
        page.get_by_test_id("rows-row").nth(2).wait_for()
        expect(page.get_by_test_id("stage")).to_have_attribute("data-shown", "rows")
        correct = [row.locator("span").nth(2).inner_text() for row in page.get_by_test_id("rows-row").all()]
        assert correct == ["no", "yes", "no"]
        said = [cell.inner_text() for cell in page.get_by_test_id("rows-row").first.locator("span").all()]
        assert said[:4] == ["0", "7", "no", "42"]
        assert said[5:] == ["3", "$0", "num_samples", ""]
        expect(page.get_by_test_id("pane")).to_be_hidden()  # here is nothing to select
        page.get_by_test_id("rows-row").nth(1).click()
        page.locator("[data-shown=graph]").wait_for()
        page.go_back()
        page.locator("[data-shown=rows]").wait_for()
        page.get_by_test_id("rows-row").nth(1).click()
        expect(page.get_by_test_id("stage")).to_have_attribute("data-shown", "graph")
        paths = page.get_by_test_id("paths")
        page.wait_for_url(f"**path={paths.input_value()}")
        page.locator("[data-tab=votes]").click()
        expect(page.get_by_test_id("vote-leader")).to_have_text("42", use_inner_text=True)
        paths.select_option(index=0)
        page.get_by_test_id("vote-leader").get_by_text("7").wait_for()


def test_a_file_that_is_gone_is_said(open_page, store, under_way):
    with under_way(store) as (_, run_id), open_page(store, f"#/run/{run_id}") as page:
        page.get_by_test_id("run-status").get_by_text("running").wait_for()
        for file in store.directory.glob(f"{run_id}.sqlite*"):
            file.unlink()
        page.get_by_test_id("connection").get_by_text(run_id).wait_for()


@pytest.fixture
def connections(page):
    """The states of the connections that the page opens to follow runs, in order: 1 is open, 2 closed."""
    page.add_init_script("""
        window.followed = [];
        const Plain = EventSource;
        window.EventSource = class extends Plain {
          constructor(url) {
            super(url);
            followed.push(this);
          }
        };
    """)
    return lambda: page.evaluate("followed.map((one) => one.readyState)")


def hide(page, is_hidden):
    page.evaluate(
        "isHidden => { Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def test_a_hidden_page_has_no_connection_and_follows_again_when_it_is_shown(open_page, store, under_way, connections):
    with under_way(store) as (model, run_id), open_page(store, f"#/run/{run_id}") as page:
        page.get_by_test_id("run-status").get_by_text("running").wait_for()
        assert connections() == [1]
        hide(page, True)
        assert connections() == [2]
        model.go.set()
        expect(page.get_by_test_id("run-status")).to_have_text(
            "running", use_inner_text=True
        )  # what is on screen stays
        hide(page, False)
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()
        page.locator("[data-connection=over]").wait_for()
        hide(page, False)
        assert connections() == [2, 2]  # what is over is not followed again


def test_a_hidden_list_of_runs_does_not_ask(open_page, store, under_way, watched):
    with under_way(store), open_page(store) as page:
        page.get_by_test_id("run-row").wait_for()
        hide(page, True)
        before = len(watched.requests)
        page.wait_for_timeout(3000)  # a run under way is asked for every two seconds
        assert len(watched.requests) == before
        with page.expect_request("**/api/runs?*"):
            hide(page, False)


def spoiled(store, answer):
    """A run with an event that cannot be read."""
    model = ScriptedBackend(lambda *_: answer)
    run_id = run(arithmetic(num_samples=2), "17 + 25", backend=model, seed=1, store=store).run_id
    with closing(sqlite3.connect(Path(store.directory, f"{run_id}.sqlite"))) as file:
        file.execute("UPDATE event SET data = ? WHERE kind = 'thoughts'", (b"[{}]",))
        file.commit()
    return run_id


def test_what_cannot_be_read_stays_said_and_is_tried_less_and_less_often(open_page, page, store, connections, gathered):
    run_id = spoiled(store, "Answer: 42")
    page.add_init_script("""
        window.told = [];
        new MutationObserver(() => {
          const line = document.querySelector("[data-testid=connection]");
          const said = line === null || line.hidden ? "" : line.textContent.replace(/.*(?=Trying again)/s, "");
          if (said !== told.at(-1)?.[0]) {
            told.push([said, followed.length]);
          }
        }).observe(document, { attributes: true, childList: true, subtree: true });
    """)
    with open_page(store, f"#/run/{run_id}"):
        assert gathered("told", 5) == [
            ["", 0],
            ["Trying again.", 1],  # after half a second, and after one
            *([f"Trying again in {wait} s.", number] for wait, number in ((2, 3), (4, 4), (8, 5))),
        ]
        expect(page.get_by_test_id("connection")).to_contain_text(run_id, use_inner_text=True)
        assert set(connections()) == {2}


def test_what_cannot_be_read_is_said_where_runs_are_compared(open_page, store):
    run_ids = [spoiled(store, f"Answer: {answer}") for answer in (41, 42)]
    with open_page(store, f"#/compare/{run_ids[0]}/{run_ids[1]}") as page:
        for run_id in run_ids:
            page.locator(".connection").get_by_text(run_id).wait_for()


@pytest.mark.parametrize(("is_selected", "path"), [(False, ""), (True, "part")])
def test_the_whole_is_shown_when_it_is_told_unless_a_part_is_being_read(open_page, store, is_selected, path):
    """A joined program tells of its parts first: here a run that is told as a part, and later as the whole, too."""
    model = ScriptedBackend(lambda *_: "Answer: 42")
    run_id = run(arithmetic(num_samples=2), "17 + 25", backend=model, seed=1, store=store).run_id
    with open_page(store) as page:
        feed = page.evaluate("id => fetch(`api/runs/${id}/feed`).then((answer) => answer.text())", run_id)
        *whole, end = [json.loads(line[6:]) for line in feed.split("\n") if line.startswith("data: ")]
        told = json.loads(json.dumps(whole).replace('"path": ""', '"path": "part"'))

        def answer(route):
            events = "".join(f"data: {json.dumps(batch)}\n\n" for batch in told)
            route.fulfill(status=200, content_type="text/event-stream", body=events)

        page.route("**/feed", answer)
        page.evaluate("id => { location.hash = `#/run/${id}?tab=thoughts` }", run_id)
        page.get_by_test_id("thoughts-row").nth(1).wait_for()
        if is_selected:
            page.get_by_test_id("thoughts-row").nth(1).click()
        told += [*whole[1:], end]
        page.locator("[data-testid=paths]:visible").wait_for()
        expect(page.get_by_test_id("paths")).to_have_value(path)
