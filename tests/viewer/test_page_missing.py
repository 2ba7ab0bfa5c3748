"""The page of a run that was never there: it says so, offers the way back, and asks less and less often."""

from __future__ import annotations

from looking import expect


def test_a_run_that_never_was_leaves_an_address_back_and_no_empty_frame(open_page, puzzles):
    with open_page(puzzles.store, "#/run/20200101-000000-none") as page:
        page.get_by_test_id("connection").get_by_text("there is no such run").wait_for()
        expect(page.get_by_test_id("stage")).to_be_hidden()
        expect(page.get_by_test_id("paths")).to_be_hidden()
        expect(page.get_by_test_id("pane")).to_be_hidden()
        page.get_by_role("link", name="All runs").click()
        page.get_by_test_id("run-row").first.click()
        page.get_by_test_id("run-row").first.locator("a").click()
        page.get_by_test_id("stage").wait_for()
        expect(page.get_by_role("link", name="All runs")).to_have_count(0)


def test_a_run_that_never_was_is_sought_every_minute_in_the_end(open_page, page, puzzles):
    page.clock.install()
    with open_page(puzzles.store, "#/run/20200101-000000-none"):
        said = page.get_by_test_id("connection")
        said.get_by_text("there is no such run").wait_for()
        said.get_by_text("Trying again in 2 s.").wait_for()
        for passed, following in ((2, 4), (4, 8), (8, 16), (16, 32), (32, 60), (60, 60)):
            with page.expect_response("**/state"):
                page.clock.fast_forward(passed * 1000)
            said.get_by_text(f"Trying again in {following} s.").wait_for()
