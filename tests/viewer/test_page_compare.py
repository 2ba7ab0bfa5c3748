"""Two real runs side by side: what differs, and the thoughts that both have."""

from __future__ import annotations

import re

import pytest
from looking import expect

from llmprog import map as run_map
from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic


@pytest.fixture
def compared(open_page, puzzles):
    with open_page(puzzles.store, f"#/compare/{puzzles.game}/{puzzles.other_game}") as page:
        page.get_by_test_id("twins-row").first.wait_for()
        yield page


def states(puzzles, run_id):
    with puzzles.store.open(run_id) as kept:
        entries = [entry for event in kept.events(kind="thoughts") for entry in event.data if "again" not in entry]
    return [entry.get("full", entry["state"]) for entry in entries]


def test_what_differs_is_marked_and_what_does_not_is_not(compared):
    facts = compared.get_by_test_id("compare-facts")
    cells = facts.locator("[data-fact=seed] td").all_inner_texts()
    assert cells == ["5", "6", "differs"]
    assert "differs" in facts.locator("[data-fact=seed]").get_attribute("class")
    assert facts.locator("[data-fact=input]").get_attribute("class") is None
    expect(facts.locator("[data-fact=input] td")).to_have_text(["4 9 10 13", "4 9 10 13", ""], use_inner_text=True)


def test_usage_says_how_much_more_the_second_took(compared, puzzles):
    usages = []
    for run_id in (puzzles.game, puzzles.other_game):
        with puzzles.store.open(run_id) as kept:
            usages.append(kept.usage.calls)
    one, other = usages
    *shown, more = compared.locator("[data-fact=calls] td").all_inner_texts()
    assert shown == [f"{one:,}", f"{other:,}"]
    times = other / one
    expected = f"×{float(f'{times:.2g}'):g}" if times >= 2 or times <= 0.5 else f"{round(100 * (times - 1)):+} %"
    assert more == expected.replace("-", "−")


def test_lines_that_only_one_program_has_are_marked(compared):
    programs = compared.get_by_test_id("compare-programs")
    programs.locator("summary").click()
    marked = programs.locator(".line.differs").all_inner_texts()
    assert any("beam_width" in line for line in marked)
    assert 0 < len(marked) < programs.locator(".line").count() / 2


def test_thoughts_of_both_are_listed_and_counted(compared, puzzles):
    one, other = states(puzzles, puzzles.game), states(puzzles, puzzles.other_game)
    both = len(set(one) & set(other))
    assert len(set(one)) == len(one)  # merged by their states, so that each is there once
    said = compared.get_by_test_id("compare-shared").inner_text()
    assert said.startswith(
        f"{both} thoughts in both runs, {len(one) - both} only left, {len(other) - both} only right."
    )
    expect(compared.get_by_test_id("twins")).to_have_attribute("aria-rowcount", str(both + 1))


def test_a_thought_of_both_is_selected_in_both(compared, puzzles):
    row = compared.get_by_test_id("twins-row").nth(1)
    state = row.locator("span").first.inner_text()
    row.click()
    one, other = states(puzzles, puzzles.game), states(puzzles, puzzles.other_game)
    thoughts = [one.index(state), other.index(state)]
    expect(compared.get_by_test_id("compare-said")).to_have_text(
        [re.compile(f"^thought {thought}, in both: ") for thought in thoughts]
    )
    expect(compared.get_by_test_id("graph-said")).to_have_text(
        [re.compile(f"^Thought {thought}: ") for thought in thoughts]
    )


def test_a_thought_chosen_in_one_graph_selects_its_twin_in_the_other(compared, puzzles):
    canvas = compared.get_by_test_id("graph-canvas").first
    canvas.focus()
    compared.keyboard.press("ArrowDown")  # the first key selects the root
    expect(compared.get_by_test_id("compare-said")).to_have_text(["thought 0, in both: 4 9 10 13"] * 2)


def test_thoughts_of_both_are_outlined_in_the_graphs(open_page, puzzles):
    def wait_for_pixels(page, condition):
        page.wait_for_function(
            f"() => {{ const count = ({PIXELS_OF})(document.querySelector('[data-testid=graph-canvas][data-drawn]')); "
            f"return {condition}; }}"
        )

    with open_page(puzzles.store, f"#/compare/{puzzles.game}/{puzzles.other_game}") as page:
        page.get_by_test_id("twins-row").first.wait_for()
        wait_for_pixels(page, "count > 50")
        page.evaluate("hash => { location.hash = hash }", f"#/compare/{puzzles.game}/{puzzles.vote}")
        page.get_by_text("0 thoughts in both runs").wait_for()
        wait_for_pixels(page, "count === 0")


# How many pixels of a canvas have the colour of outlines, as near as blending lets them.
PIXELS_OF = """(canvas) => {
  if (canvas === null) {
    return null;
  }
  const [r, g, b] = [0x7a, 0x3f, 0xa0];
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    count += Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12 ? 1 : 0;
  }
  return count;
}"""


def test_votes_are_side_by_side(open_page, puzzles):
    with open_page(puzzles.store, f"#/compare/{puzzles.vote}/{puzzles.game}") as page:
        page.get_by_test_id("vote-leader").first.wait_for()
        expect(page.locator(".compare-votes").nth(0)).to_be_visible()
        expect(page.locator(".compare-votes").nth(1)).to_be_hidden()
        expect(page.get_by_test_id("compare-shared")).to_contain_text("0 thoughts in both runs", use_inner_text=True)


def test_a_run_that_is_not_there_is_said_and_the_other_is_not_lost(open_page, puzzles):
    with open_page(puzzles.store, f"#/compare/{puzzles.vote}/20200101-000000-none") as page:
        page.get_by_text("20200101-000000-none").first.wait_for()
        page.get_by_text("there is no such run").first.wait_for()
        page.get_by_test_id("vote-bars").first.wait_for()  # of the run that is there
        expect(page.get_by_test_id("compare-shared")).to_be_hidden()
        expect(page.get_by_text("No thought is in both.")).to_be_hidden()


@pytest.fixture
def jobs(store):
    """Ids of two jobs: rows 0 and 1 are of both, row 2 of the first only."""
    ids = []
    for numbers in ((16, 17, 18), (16, 17)):
        inputs = [{"input": f"{number} + 25", "right": "42"} for number in numbers]
        model = ScriptedBackend(lambda *_: "Answer: 42")
        run_map(arithmetic(num_samples=2), inputs, gold="right", backend=model, seed=1, store=store)
        ids.append(store.list()[0].id)
    return ids


def shown(page):
    return [page.get_by_test_id(f"compare-{side}").input_value() for side in ("left", "right")]


def test_another_search_has_twins_of_its_own(open_page, store, jobs):
    with open_page(store, f"#/compare/{jobs[0]}/{jobs[1]}") as page:
        first = page.get_by_test_id("twins-row").first
        first.get_by_text("16 + 25").wait_for()
        assert page.get_by_test_id("compare-counts").inner_text() == (
            "2 searches in both runs, 1 only left, 0 only right."
        )
        page.get_by_test_id("compare-left").select_option("1")
        first.get_by_text("17 + 25").wait_for()
        assert shown(page) == ["1", "1"]
        first.click()
        for side in range(2):
            expect(page.get_by_test_id("compare-said").nth(side)).to_contain_text("17 + 25", use_inner_text=True)
        page.wait_for_url("**?path=1")


def test_each_run_shows_a_search_of_its_own_where_that_is_chosen_by_keys_and_the_address_keeps_it(
    open_page, store, jobs
):
    with open_page(store, f"#/compare/{jobs[0]}/{jobs[1]}") as page:
        page.get_by_test_id("twins-row").first.wait_for()
        join = page.get_by_test_id("compare-join")
        join.focus()
        page.keyboard.press("Space")
        expect(join).not_to_be_checked()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        assert shown(page) == ["0", "1"]
        page.get_by_text("1 thought in both runs").wait_for()
        page.wait_for_url("**?each=yes&left=0&right=1")
        page.reload()
        page.get_by_text("1 thought in both runs").wait_for()
        assert shown(page) == ["0", "1"]
        expect(join).not_to_be_checked()
        join.check()
        page.get_by_test_id("twins-row").first.get_by_text("16 + 25").wait_for()
        assert shown(page) == ["0", "0"]
        page.wait_for_url("**?path=0")


def test_a_search_that_one_run_has_alone_is_said_and_shown_beside_another(open_page, store, jobs):
    with open_page(store, f"#/compare/{jobs[0]}/{jobs[1]}?path=1") as page:
        page.get_by_test_id("twins-row").first.get_by_text("17 + 25").wait_for()
        left = page.get_by_test_id("compare-left")
        expect(left.locator("option")).to_have_text(["row 0", "row 1", "row 2 (only left)"], use_inner_text=True)
        left.select_option("2")
        page.get_by_text("1 thought in both runs").wait_for()
        assert shown(page) == ["2", "1"]
        expect(page.get_by_test_id("compare-join")).not_to_be_checked()


def test_runs_of_one_search_each_leave_no_choice(compared):
    expect(compared.get_by_test_id("compare-left")).to_be_hidden()


def test_runs_without_a_search_in_common_show_each_its_own(open_page, store, jobs):
    model = ScriptedBackend(lambda *_: "Answer: 42")
    whole = run(arithmetic(num_samples=2), "16 + 25", backend=model, seed=1, store=store).run_id
    with open_page(store, f"#/compare/{whole}/{jobs[1]}") as page:
        page.get_by_test_id("twins-row").first.get_by_text("16 + 25").wait_for()
        expect(page.get_by_test_id("compare-join")).to_be_disabled()  # they have no search in common
        page.get_by_test_id("compare-right").select_option("1")
        page.wait_for_url("**?each=yes&right=1")
        page.reload()
        page.get_by_text("1 thought in both runs").wait_for()
        assert shown(page) == ["", "1"]
