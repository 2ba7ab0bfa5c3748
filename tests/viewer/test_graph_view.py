"""The graph of a search: what is shown, and what hands and keys do with it, in Chromium."""

from __future__ import annotations

import pytest
from looking import expect


def thought(number, parents=(), state=None, **more):
    record = {"path": "", "id": number, "parents": list(parents), "node": "propose", "sample": 0, "question": None}
    return {**record, "state": state or f"state {number}", "goal": False, "answer": None, "at": 0, **more}


def verdict(number, score=0, valid=True, checker="judge"):
    return {"path": "", "id": number, "by": [{"checker": checker, "score": score, "valid": valid, "reason": ""}]}


SEARCH = [
    {"run": {"id": "r", "elapsed_s": 1.0}, "searches": [{"path": "", "has_goal": True}]},
    {
        "thoughts": [
            thought(0, state="4 5 6 10"),
            thought(1, [0], "4 + 5 = 9"),
            thought(2, [0], "10 - 4 = 6"),
            thought(3, [0], "4 / 10 = 0.4"),
            thought(4, [1], "9 * 6 = 54"),
            thought(5, [2], "6 * 5 = 30"),
            thought(6, [2, 1], "both together"),
            thought(7, [5], "30 - 6 = 24", goal=True, answer="(10 - 4) * 5 - 6"),
        ],
        "verdicts": [
            verdict(1, 3), verdict(2, 8), verdict(3, 0, valid=False, checker="legal"), verdict(4, 1), verdict(7, "inf"),
        ],
        "pruned": [{"path": "", "id": 4, "reason": "beam"}],
        "arrivals": [{"path": "", "id": 5, "parents": [1], "node": "propose", "sample": 1, "question": None}],
        "finished": [{"path": "", "stopped": "goal", "thought": 7}],
    },
]  # fmt: skip
SCENE = """
    const model = new models.RunModel();
    given.batches.forEach((batch) => model.apply(batch));
    const search = model.search("");
    const all = { folded: new Set(), isSolutionOnly: false, hidesInvalid: false };
    const sceneOf = (filter) => new m.GraphScene(search, { ...all, ...filter });
    const shown = (scene) => [...scene.order].sort((one, other) => one - other);
"""


@pytest.fixture
def scenes(page, module):
    module("model.js")
    page.evaluate("window.models = window.m; 0")
    return module("graph_scene.js")


def test_all_edges_are_those_of_the_graph(scenes):
    links = scenes(SCENE + "return sceneOf({}).links;", {"batches": SEARCH})
    assert links == [{"from": 1, "to": 5, "isArrival": True}, {"from": 1, "to": 6, "isArrival": False}]


def test_what_is_folded_is_counted_and_its_edges_lead_to_what_hides_it(scenes):
    code = """
        const scene = sceneOf({ folded: new Set([2]) });
        return [shown(scene), [...scene.foldedSizes], scene.links];
    """
    found = scenes(SCENE + code, {"batches": SEARCH})
    assert found == [[0, 1, 2, 3, 4], [[2, 3]], [{"from": 1, "to": 2, "isArrival": True}]]


def test_near_the_solution_is_all_that_led_to_it_and_its_children(scenes):
    code = "return [shown(sceneOf({ isSolutionOnly: true })), shown(sceneOf({ hidesInvalid: true }))];"
    near, valid = scenes(SCENE + code, {"batches": SEARCH})
    assert near == [0, 1, 2, 3, 5, 6, 7]
    assert valid == [0, 1, 2, 4, 5, 6, 7]


def test_colours_go_by_status_score_or_the_checker_that_decided(module, page, scenes):
    looks = module("graph_look.js")
    code = """
        const model = new models.RunModel();
        given.batches.forEach((batch) => model.apply(batch));
        return ["status", "score", "checker"].map((by) => {
            const { codes, legend } = m.looksOf(model.search(""), by, new Set());
            return [...codes].map((code) => legend[code].label);
        });
    """
    status, score, checker = looks(code, {"batches": SEARCH})
    assert status == ["open", "open", "open", "invalid", "pruned", "open", "open", "goal"]
    # 0, 1, 3, 8 and infinity, in four steps
    assert score == ["no score", "3", "8", "0 to 1", "0 to 1", "no score", "no score", "∞"]
    assert checker == ["not judged", "judge", "judge", "legal", "judge", "not judged", "not judged", "judge"]


@pytest.fixture
def graph(mount):
    return mount("graph_view.js", "createGraphView", SEARCH, path="")


def said(page):
    return page.get_by_test_id("graph-said").inner_text()


def picked(page):
    return page.evaluate("picked")


def focused(page):
    canvas = page.get_by_test_id("graph-canvas")
    canvas.focus()
    return page.keyboard


def drawn(page, count):
    page.locator(f"[data-testid=graph-canvas][data-drawn='{count}']").wait_for()


def test_arrow_keys_walk_the_graph_and_say_where_they_are(graph):
    keyboard = focused(graph)
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp"):
        keyboard.press(key)
    assert picked(graph) == [0, 1, 2, 5, 6, 2]  # to the right of 6 there is nothing
    assert said(graph) == (
        "Thought 2: 10 - 4 = 6; open; score 8; on the solution's path; 2 of 3 at its place; 2 children"
    )
    graph.evaluate("view.select(5)")
    assert said(graph).endswith("1 of 2 at its place; 1 child; reached in 1 other way")
    keyboard.press("Escape")
    assert picked(graph)[-1] is None
    assert said(graph) == ""


def middle(page):
    box = page.get_by_test_id("graph-canvas").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def centred(page, number):
    """Bring a thought to where its place is known: found by its state, it stands in the middle."""
    page.get_by_test_id("graph-zoom-out").click()
    for _ in range(12):
        page.get_by_test_id("graph-zoom-out").click()
    state = page.evaluate("id => model.search('').thoughts[id].state", number)
    page.get_by_test_id("graph-search").fill(state)
    page.get_by_test_id("graph-search").press("Enter")
    x, y = middle(page)
    return x, y + 12


def test_a_click_selects_and_a_click_beside_selects_nothing(graph):
    place = centred(graph, 5)
    graph.evaluate("picked.length = 0; view.select(null)")
    graph.mouse.click(*place)
    assert picked(graph) == [5]
    assert said(graph).startswith("Thought 5: 6 * 5 = 30")
    box = graph.get_by_test_id("graph-canvas").bounding_box()
    graph.mouse.click(box["x"] + 4, box["y"] + box["height"] - 4)
    assert picked(graph) == [5, None]


def test_pointing_at_a_thought_shows_its_state_and_score(graph):
    graph.mouse.move(*centred(graph, 2))
    tip = graph.get_by_test_id("graph-tip")
    assert tip.inner_text().split("\n") == ["10 - 4 = 6", "#2 · open · score 8"]
    graph.mouse.move(10, 5)
    expect(tip).to_be_hidden()


def test_dragging_moves_the_picture_and_selects_nothing(graph):
    x, y = centred(graph, 5)
    graph.evaluate("picked.length = 0; view.select(null)")
    graph.mouse.move(x, y)
    graph.mouse.down()
    graph.mouse.move(x + 60, y + 30, steps=4)
    graph.mouse.up()
    assert picked(graph) == []
    graph.mouse.click(x + 60, y + 30)
    assert picked(graph) == [5]


def test_the_wheel_zooms_around_the_pointer(graph):
    x, y = centred(graph, 5)
    graph.evaluate("picked.length = 0")
    graph.mouse.move(x - 40, y)
    for delta in (-100, -100, -100, 240, -100):
        graph.mouse.wheel(0, delta)
    graph.mouse.click(x - 40, y)
    assert picked(graph) == [5]


def test_a_sub_tree_is_folded_and_unfolded(graph):
    graph.evaluate("view.select(2)")
    keyboard = focused(graph)
    keyboard.press(" ")
    drawn(graph, 5)
    assert graph.get_by_test_id("graph-counts").inner_text().startswith("5 of 8 thoughts")
    keyboard.press("ArrowDown")
    assert picked(graph) == []  # there is nothing below it now
    graph.get_by_test_id("graph-unfold").click()
    drawn(graph, 8)
    graph.mouse.dblclick(*centred(graph, 2))
    drawn(graph, 5)
    graph.evaluate("view.select(7)")  # what is asked for is shown
    drawn(graph, 8)


def test_search_finds_states_and_answers_and_goes_from_one_to_the_next(graph, painted):
    box = graph.get_by_test_id("graph-search")
    box.fill("10 - 4")
    box.press("Enter")
    expect(graph.get_by_test_id("graph-matches")).to_have_text("1 of 2", use_inner_text=True)
    box.press("Enter")
    box.press("Enter")
    box.press("Shift+Enter")
    assert picked(graph) == [2, 7, 2, 7]
    assert painted("graph-canvas").get(painted.of("--match"), 0) > 20
    box.fill("nowhere")
    graph.get_by_text("no match").wait_for()
    box.fill("")
    graph.wait_for_function("document.querySelector('[data-testid=graph-matches]').textContent === ''")


def test_filters_leave_out_and_selecting_brings_back(graph):
    graph.get_by_test_id("graph-hide-invalid").check()
    drawn(graph, 7)
    graph.get_by_test_id("graph-solution-only").check()
    drawn(graph, 6)
    graph.evaluate("view.select(3)")
    drawn(graph, 8)
    expect(graph.get_by_test_id("graph-hide-invalid")).not_to_be_checked()
    expect(graph.get_by_test_id("graph-solution-only")).not_to_be_checked()


def test_the_solution_the_goal_and_what_was_refused_have_their_colours(graph, painted):
    found = painted("graph-canvas")
    for name in ("--solution", "--goal", "--invalid", "--open"):
        assert found.get(painted.of(name), 0) > 15, name
    graph.get_by_test_id("graph-coloring").select_option("score")
    assert painted("graph-canvas").get(painted.of("--scale-4"), 0) > 15
    expect(graph.get_by_test_id("graph-legend")).to_contain_text("no score", use_inner_text=True)


def test_the_legend_names_the_lines_that_are_there(graph, mount):
    legend = graph.get_by_test_id("graph-legend")
    lines = ["way to the solution", "another parent, joined (1)", "another way, merged (1)"]
    assert legend.inner_text().split("\n") == ["open", "goal", "invalid", "pruned", *lines]
    mount(
        "graph_view.js",
        "createGraphView",
        [{"searches": [{"path": "", "has_goal": True}], "thoughts": [thought(0)]}],
        path="",
    )
    assert legend.inner_text().split("\n") == ["open", "goal", "invalid", "pruned"]


def test_the_picture_follows_the_colours_of_the_page(graph, painted):
    graph.emulate_media(color_scheme="dark")
    found = painted("graph-canvas")
    assert max(found, key=found.get) == painted.of("--surface") == "#1b1f24"


def test_thoughts_that_come_later_do_not_move_what_is_looked_at(graph):
    place = centred(graph, 7)
    graph.evaluate("picked.length = 0; view.select(null)")
    new = [thought(n, [0 if n % 2 else 1]) for n in range(8, 60)]
    graph.evaluate("batch => model.apply(batch)", {"thoughts": new})
    drawn(graph, 60)
    graph.mouse.click(*place)
    assert picked(graph) == [7]
    assert graph.get_by_test_id("graph-counts").inner_text().startswith("60 thoughts")


def test_the_map_shows_where_one_is_and_leads_elsewhere(mount):
    batch = {"thoughts": [thought(0), *(thought(n, [(n - 1) // 6]) for n in range(1, 3000))]}
    page = mount("graph_view.js", "createGraphView", [SEARCH[0], batch], path="")
    chart = page.get_by_test_id("graph-minimap")
    expect(chart).to_be_hidden()  # all is in sight
    for _ in range(8):
        page.get_by_test_id("graph-zoom-in").click()
    chart.wait_for()
    box = chart.bounding_box()
    before = page.get_by_test_id("graph-canvas").screenshot()
    page.mouse.click(box["x"] + 10, box["y"] + box["height"] - 10)
    moved = (page.get_by_test_id("graph-canvas").screenshot() != before for _ in range(100))
    assert any(moved)
    page.get_by_test_id("graph-fit").click()
    chart.wait_for(state="hidden")


def test_a_kept_picture_shows_what_a_new_one_would(mount, painted):
    """Many thoughts are moved as one picture: moved there and drawn there must look the same."""
    batch = {"thoughts": [thought(0), *(thought(n, [(n - 1) // 6]) for n in range(1, 3000))]}
    page = mount("graph_view.js", "createGraphView", [SEARCH[0], batch], path="")
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 24, steps=5)
    page.mouse.up()
    page.mouse.move(5, 5)
    moved = painted("graph-canvas")
    page.evaluate("view.element.querySelector('[data-testid=graph-coloring]').dispatchEvent(new Event('change'))")
    assert painted("graph-canvas") == moved


def test_another_search_of_the_run_is_shown_from_its_beginning(mount):
    other = [{"searches": [{"path": "1", "has_goal": False}], "thoughts": [{**thought(0), "path": "1"}]}]
    page = mount("graph_view.js", "createGraphView", [*SEARCH, *other], path="")
    page.evaluate("view.select(7); view.setPath('1')")
    drawn(page, 1)
    assert said(page) == ""
    page.evaluate("view.setPath('')")
    drawn(page, 8)


def test_the_graph_of_a_real_run(open_page, puzzles):
    graph = puzzles.result.graph
    solution = [step.id for step in graph.path(puzzles.result.thought.id)]
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=graph") as page:
        drawn(page, len(graph))
        box = page.get_by_test_id("graph-search")
        box.fill(str(puzzles.result.answer))
        box.press("Enter")
        page.wait_for_url(f"**thought={solution[-1]}*")
        assert "on the solution's path" in said(page)
        keyboard = focused(page)
        for above in reversed(solution[:-1]):
            keyboard.press("ArrowUp")
            page.wait_for_url(f"**thought={above}*")
        assert said(page).startswith(f"Thought {solution[0]}: 4 9 10 13")
