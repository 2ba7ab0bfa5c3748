"""The list of runs: searched, filtered, kept up to date, two chosen to compare."""

from __future__ import annotations

import pytest
from looking import expect

from llmprog import map as run_map
from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError
from llmprog.programs import arithmetic
from llmprog.runs.store import DirectoryStore


def make(store, given, answer="Answer: 42", num_samples=3):
    model = ScriptedBackend(lambda prompt, sample: answer)
    return run(arithmetic(num_samples=num_samples), given, backend=model, seed=1, store=store).run_id


def long_answer(prompt, sample):
    return "Answer: 42" + "0" * 200


def rows(page):
    return page.get_by_test_id("run-row")


@pytest.fixture
def listed(open_page, store, puzzles):
    """A list of the runs of the embedded model."""
    with open_page(puzzles.store) as page:
        rows(page).first.wait_for()
        yield page


def test_the_runs_are_there_newest_first_with_what_came_of_them(listed, puzzles):
    links = [link.get_attribute("href") for link in rows(listed).locator("a").all()]
    assert links == [f"#/run/{run_id}" for run_id in (puzzles.vote, puzzles.other_game, puzzles.game)]
    cells = rows(listed).last.locator("td").all_inner_texts()
    assert [cell.strip() for cell in cells[1:5]] == ["game24", "4 9 10 13", str(puzzles.result.answer), "finished"]
    assert listed.title() == "Runs · llmprog"


def test_typing_searches_and_the_address_remembers_it(listed):
    listed.get_by_test_id("runs-search").fill("17 + 25")
    listed.get_by_test_id("runs-count").get_by_text("1 run in").wait_for()
    expect(rows(listed)).to_have_count(1)
    listed.wait_for_url("**query=17*")
    listed.reload()
    listed.get_by_test_id("runs-count").get_by_text("1 run in").wait_for()
    expect(listed.get_by_test_id("runs-search")).to_have_value("17 + 25")
    listed.get_by_test_id("runs-search").fill("nothing has this in it")
    listed.get_by_test_id("runs-notice").get_by_text("No run fits.").wait_for()


def test_runs_are_filtered_by_program_and_by_status(listed):
    listed.get_by_test_id("runs-program").select_option("arithmetic")
    listed.get_by_test_id("runs-count").get_by_text("1 run in").wait_for()
    expect(rows(listed).locator("a")).to_have_text(["arithmetic"], use_inner_text=True)
    listed.get_by_test_id("runs-status").select_option("failed")
    listed.get_by_test_id("runs-count").get_by_text("0 runs in").wait_for()
    expect(rows(listed)).to_have_count(0)


def test_two_are_chosen_and_compared(listed, puzzles):
    boxes = listed.get_by_role("checkbox")
    boxes.nth(1).check()
    expect(listed.get_by_test_id("compare")).to_be_hidden()
    boxes.nth(2).check()
    expect(boxes.nth(0)).to_be_disabled()
    listed.get_by_test_id("compare").click()
    listed.wait_for_url(f"**#/compare/{puzzles.other_game}/{puzzles.game}")
    listed.get_by_test_id("compare-facts").locator("tr").first.wait_for()


def test_an_empty_store_says_how_to_make_a_run_and_shows_it_when_it_is_made(open_page, store):
    with open_page(store) as page:
        page.get_by_test_id("runs-notice").get_by_text("No runs yet").wait_for()
        expect(page.get_by_test_id("runs-notice")).to_contain_text("llmprog run", use_inner_text=True)
        make(store, "17 + 25")
        rows(page).first.wait_for()
        expect(page.get_by_test_id("runs-notice")).to_have_text("", use_inner_text=True)


def test_a_run_that_is_under_way_is_kept_up_to_date(open_page, store, under_way):
    with under_way(store) as (model, _), open_page(store) as page:
        status = page.get_by_test_id("run-status")
        status.get_by_text("running").wait_for()
        model.go.set()
        status.get_by_text("finished").wait_for(timeout=10_000)
        assert rows(page).first.locator("td").nth(3).inner_text() in ("40", "41", "42")


def test_an_unreadable_run_says_why_and_the_others_are_there(open_page, store):
    make(store, "17 + 25")
    (store.directory / "20200101-000000-bad0.sqlite").write_bytes(b"not a database, whatever its name says" * 100)
    with open_page(store) as page:
        rows(page).first.wait_for()
        expect(rows(page)).to_have_count(2)
        bad = rows(page).last
        expect(bad).to_contain_text("unreadable", use_inner_text=True)
        expect(bad.locator("td").nth(3)).to_contain_text("not a database", use_inner_text=True)
        expect(bad.locator("a, input")).to_have_count(0)


def test_a_failed_run_is_marked(open_page, store):
    def broken(prompt, sample):
        raise OSError("the line is dead")

    with pytest.raises(BackendError):
        run(arithmetic(num_samples=3), "17 + 25", backend=ScriptedBackend(broken), seed=1, store=store)
    with open_page(store) as page:
        page.get_by_test_id("run-status").get_by_text("failed").wait_for()
        assert rows(page).first.locator("td").nth(3).inner_text().endswith("the line is dead")


def test_a_job_says_which_columns_it_read_and_what_it_came_to(open_page, store):
    model = ScriptedBackend(lambda prompt, sample: "Answer: 42")
    inputs = [{"question": f"{number} + 25", "right": str(number + 25)} for number in (16, 17)]
    run_map(arithmetic(num_samples=1), inputs, input="question", gold="right", backend=model, seed=1, store=store)
    with open_page(store) as page:
        rows(page).first.wait_for()
        given, came_to = rows(page).first.locator("td").all_inner_texts()[2:4]
        assert given == "input: question, gold: right"
        assert came_to.startswith("2 of 2 rows answered, 1 of 2 right (50 %")
        page.get_by_test_id("runs-search").fill("question right")
        page.get_by_test_id("runs-count").get_by_text("1 run in").wait_for()
        rows(page).first.locator("a").click()
        assert page.get_by_test_id("run-input").inner_text().split("\n")[-1] == "input: question, gold: right"


@pytest.mark.parametrize("width", [720, 1020, 1280])
def test_long_texts_push_no_column_out_of_sight(open_page, store, page, width):
    run(arithmetic(num_samples=1), "17 + 25" + " + 0" * 99, backend=ScriptedBackend(long_answer), seed=1, store=store)
    page.set_viewport_size({"width": width, "height": 800})
    with open_page(store):
        rows(page).first.wait_for()
        expect(rows(page).first.locator("td").last).to_have_text("$0", use_inner_text=True)
        box = rows(page).first.locator("td").last.bounding_box()
        assert box["x"] + box["width"] <= width
        assert all(rows(page).first.locator("td").nth(at).bounding_box()["width"] > 60 for at in (2, 3))


def test_more_runs_than_a_page_holds_are_shown_when_asked_for(open_page, tmp_path):
    store = DirectoryStore(tmp_path / "many")
    for number in range(103):
        make(store, f"{number} + 1", num_samples=1)
    with open_page(store) as page:
        page.get_by_test_id("runs-count").get_by_text("100 of 103 runs").wait_for()
        page.get_by_test_id("runs-more").click()
        rows(page).nth(102).wait_for()
        expect(page.get_by_test_id("runs-count")).to_have_text(f"103 runs in {store.directory}", use_inner_text=True)
        expect(page.get_by_test_id("runs-more")).to_be_hidden()


def test_a_server_that_is_gone_is_said_in_one_sentence(open_page, store):
    make(store, "17 + 25")
    with open_page(store) as page:
        rows(page).first.wait_for()
    page.get_by_test_id("runs-status").select_option("finished")
    page.get_by_test_id("runs-notice").get_by_text("The server does not answer.").wait_for()


def test_an_address_that_leads_nowhere_says_so(open_page, store):
    with open_page(store, "#/elsewhere") as page:
        page.get_by_text("There is no such page.").wait_for()
        page.get_by_text("All runs").click()
        page.get_by_test_id("runs-notice").get_by_text("No runs yet").wait_for()
