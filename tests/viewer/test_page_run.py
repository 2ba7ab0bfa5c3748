"""The page of a real run: its head, its tabs, what is said of a thought and of a call."""

from __future__ import annotations

import re

import pytest
from looking import expect


@pytest.fixture
def game(open_page, puzzles):
    """The page of a game of 24, at its thoughts."""
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=thoughts") as page:
        page.get_by_test_id("thoughts-row").first.wait_for()
        yield page


def text(page, testid):
    return page.get_by_test_id(testid).inner_text()


def show(page, thought):
    """Select a thought through the address, and wait for what is said of it."""
    page.evaluate("id => { location.hash = location.hash.split('&thought')[0] + '&thought=' + id }", thought)
    page.get_by_test_id("thought-title").get_by_text(f"Thought {thought}", exact=True).wait_for()


def solution_of(puzzles):
    graph, thought = puzzles.result.graph, puzzles.result.thought
    return [step.id for step in graph.path(thought.id)]


def test_the_head_says_what_it_was_what_came_of_it_and_what_it_cost(game, puzzles):
    with puzzles.store.open(puzzles.game) as kept:
        usage = kept.usage
    assert text(game, "run-input").split() == ["Input", "4", "9", "10", "13"]
    assert text(game, "run-outcome").split("\n")[-1] == str(puzzles.result.answer)
    assert game.locator("[data-fact=calls]").inner_text().split()[-1] == f"{usage.calls:,}"
    expect(game.locator("[data-fact=tokens]")).to_contain_text(
        f"{usage.completion_tokens:,} written", use_inner_text=True
    )
    assert game.locator("[data-fact=seed]").inner_text().split() == ["seed", "5"]
    expect(game.get_by_test_id("run-status").first).to_have_text("finished", use_inner_text=True)
    assert game.title().startswith("game24 ")


def test_the_tabs_are_those_that_have_something_to_show(game):
    assert [tab.get_attribute("data-tab") for tab in game.get_by_role("tab").all()] == [
        "graph", "thoughts", "timeline", "calls",
    ]  # fmt: skip
    for name in ("graph", "thoughts", "timeline", "calls"):
        game.locator(f"[data-tab={name}]").click()
        expect(game.get_by_test_id("stage")).to_have_attribute("data-shown", name)
        expect(game.locator(f"[data-tab={name}]")).to_have_attribute("aria-selected", "true")
    game.wait_for_url("**tab=calls*")


def test_tabs_are_gone_through_with_the_arrow_keys(game):
    game.locator("[data-tab=thoughts]").focus()
    game.keyboard.press("ArrowRight")
    expect(game.get_by_test_id("stage")).to_have_attribute("data-shown", "timeline")
    game.keyboard.press("End")
    expect(game.get_by_test_id("stage")).to_have_attribute("data-shown", "calls")


def test_a_thought_says_where_it_came_from_and_what_was_said_of_it(game, puzzles):
    graph = puzzles.result.graph
    *_, before, goal = solution_of(puzzles)
    show(game, goal)
    expect(game.get_by_test_id("pane").get_by_test_id("status")).to_have_text("goal", use_inner_text=True)
    expect(game.get_by_test_id("thought-head")).to_contain_text("on the solution’s path", use_inner_text=True)
    expect(game.get_by_test_id("thought-answer")).to_contain_text(str(puzzles.result.answer), use_inner_text=True)
    assert game.get_by_test_id("thought-origin").locator(f"[data-thought='{before}']").count() >= 1
    expect(game.get_by_test_id("verdict")).to_have_count(len(graph[goal].verdicts))
    for checker, _ in graph[goal].verdicts:
        expect(game.get_by_test_id("thought-verdicts")).to_contain_text(checker, use_inner_text=True)


def test_a_refused_thought_says_by_whom_and_why(game, puzzles):
    graph = puzzles.result.graph
    refused = next(t for t in range(len(graph)) if any(not v.valid and v.reason for _, v in graph[t].verdicts))
    reason = next(v.reason for _, v in graph[refused].verdicts if not v.valid)
    show(game, refused)
    expect(game.get_by_test_id("pane").get_by_test_id("status")).to_have_text("invalid", use_inner_text=True)
    expect(game.get_by_test_id("thought-verdicts")).to_contain_text(reason, use_inner_text=True)


def test_a_thought_that_was_given_up_says_why(game, puzzles):
    graph = puzzles.result.graph
    given_up = next(t for t in range(len(graph)) if graph.prune_reason(t) and graph[t].status.name == "PRUNED")
    show(game, given_up)
    expect(game.get_by_test_id("pruned-reason")).to_have_text(
        f"Pruned: {graph.prune_reason(given_up)}", use_inner_text=True
    )


def test_the_completion_of_a_thought_is_shaded_by_the_probabilities_of_its_tokens(game, puzzles):
    graph = puzzles.result.graph
    step = solution_of(puzzles)[1]
    completion = graph.arrivals(step)[0].completion
    show(game, step)
    shown = game.get_by_test_id("thought-completion").locator("pre.said")
    shown.wait_for()
    shown.get_by_test_id("token").first.wait_for()
    assert shown.inner_text() == completion.text
    tokens = shown.get_by_test_id("token")
    expect(tokens).to_have_count(len(completion.logprobs.tokens))
    doubts = [int(t.evaluate("t => t.style.getPropertyValue('--doubt')").rstrip("%")) for t in tokens.all()[:10]]
    assert doubts == [round(100 * (1 - min(1, 2.718281828459045**p))) for p in completion.logprobs.logprobs[:10]]
    assert re.fullmatch(r"“.+”: probability .* %, log-probability .*", tokens.first.get_attribute("title"))
    others = game.get_by_test_id("thought-others")
    others.locator("summary").first.click()
    expect(others.locator("details.folded").first).to_be_visible()


def test_the_prompt_of_a_thought_is_the_one_that_was_sent(game, puzzles):
    show(game, 1)
    shown = game.get_by_test_id("thought-prompt").locator("pre")
    shown.wait_for()
    with puzzles.store.open(puzzles.game) as kept:
        asked = next(kept.calls()).question.prompt.messages[0].content
    assert shown.inner_text().strip() == asked.strip()


def test_arrow_keys_go_through_the_graph_and_escape_closes(game, puzzles):
    path = solution_of(puzzles)
    show(game, path[-1])
    game.locator("body").click(position={"x": 640, "y": 12})
    game.keyboard.press("ArrowUp")
    expect(game.get_by_test_id("thought-title")).to_have_text(f"Thought {path[-2]}", use_inner_text=True)
    game.keyboard.press("ArrowUp")
    expect(game.get_by_test_id("thought-title")).to_have_text(f"Thought {path[-3]}", use_inner_text=True)
    game.wait_for_url(f"**thought={path[-3]}*")
    game.keyboard.press("Escape")
    expect(game.get_by_test_id("pane")).to_contain_text("Select a thought", use_inner_text=True)
    game.wait_for_url(lambda url: "thought=" not in url)


def test_a_key_is_not_undone_when_the_page_hears_of_the_address_that_it_wrote_before(
    open_page, page, gathered, puzzles
):
    path = solution_of(puzzles)
    page.add_init_script("""
        window.titles = [];
        window.isArmed = false;
        const up = { key: "ArrowUp", bubbles: true };
        const press = () => document.body.dispatchEvent(new KeyboardEvent("keydown", up));
        addEventListener("hashchange", () => isArmed && press());  // before the page hears of it
    """)
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=thoughts&thought={path[-1]}"):
        page.get_by_test_id("thought-title").get_by_text(f"Thought {path[-1]}", exact=True).wait_for()
        page.evaluate("""() => {
            addEventListener("hashchange", () => {  // after it has heard of it
                isArmed = false;
                titles.push(document.querySelector("[data-testid=thought-title]").textContent);
            });
            isArmed = true;
        }""")
        page.keyboard.press("ArrowUp")
        assert gathered("titles", 2) == [f"Thought {path[-3]}"] * 2


def test_a_step_button_keeps_the_focus_so_that_it_can_be_pressed_again(game, puzzles):
    path = solution_of(puzzles)
    show(game, path[0])
    game.locator("[data-step=ArrowDown]").focus()
    game.keyboard.press("ArrowDown")
    expect(game.get_by_test_id("thought-title")).not_to_have_text(f"Thought {path[0]}", use_inner_text=True)
    assert game.evaluate("document.activeElement.closest('.pane') !== null")


def test_a_row_of_the_table_is_chosen_with_the_keyboard(game):
    game.get_by_test_id("thoughts").focus()
    for _ in range(3):
        game.keyboard.press("ArrowDown")
    game.keyboard.press("Enter")
    expect(game.get_by_test_id("thought-title")).to_have_text("Thought 2", use_inner_text=True)


def test_a_call_is_reached_from_a_thought_and_leads_back(game, puzzles):
    show(game, 1)
    game.get_by_test_id("thought-origin").get_by_text("call 1", exact=True).click()
    expect(game.get_by_test_id("call-title")).to_have_text("Call 1", use_inner_text=True)
    game.get_by_test_id("call-answers").locator("pre").first.wait_for()
    made = game.get_by_test_id("call-thoughts").locator("[data-thought]")
    expect(made.first).to_have_attribute("data-thought", "1")
    made.first.click()
    expect(game.get_by_test_id("thought-title")).to_have_text("Thought 1", use_inner_text=True)


def test_the_calls_are_all_there_though_few_are_drawn(game, puzzles):
    game.locator("[data-tab=calls]").click()
    with puzzles.store.open(puzzles.game) as kept:
        last = [call.id for call in kept.calls()][-1]
    table = game.get_by_test_id("calls")
    expect(table).to_have_attribute("aria-rowcount", str(last + 1))
    assert game.get_by_test_id("calls-row").count() < 60
    table.focus()
    game.keyboard.press("End")
    game.keyboard.press("Enter")
    expect(game.get_by_test_id("call-title")).to_have_text(f"Call {last}", use_inner_text=True)


def test_a_link_to_a_thought_opens_at_it(open_page, puzzles):
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=timeline&thought=3") as page:
        page.get_by_test_id("thought-title").wait_for()
        expect(page.get_by_test_id("thought-title")).to_have_text("Thought 3", use_inner_text=True)
        expect(page.get_by_test_id("stage")).to_have_attribute("data-shown", "timeline")


def test_a_run_that_is_not_there_is_said_to_be_missing(open_page, puzzles):
    with open_page(puzzles.store, "#/run/20200101-000000-none") as page:
        page.get_by_test_id("connection").get_by_text("20200101-000000-none").wait_for()


def test_nothing_is_wrong_in_the_console(game, watched, puzzles):
    for name in ("graph", "timeline", "calls", "thoughts"):
        game.locator(f"[data-tab={name}]").click()
    show(game, 4)
    game.get_by_test_id("thought-completion").locator("pre").first.wait_for()
    assert watched.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(open_page, puzzles, scheme):
    with open_page(puzzles.store) as page:
        page.emulate_media(color_scheme=scheme)
        for place, there in (
            ("#/", "run-row"),
            (f"#/run/{puzzles.game}?tab=thoughts&thought=1", "thought-title"),
            (f"#/run/{puzzles.game}?tab=calls&call=1", "call-title"),
            (f"#/run/{puzzles.vote}?tab=votes", "vote-row"),
            (f"#/compare/{puzzles.game}/{puzzles.other_game}", "twins-row"),
        ):
            page.evaluate("place => { location.hash = place; }", place)
            page.get_by_test_id(there).first.wait_for()
            found = page.evaluate(CONTRASTS)
            assert found["lowest"] >= 4.5, f"{place}: {found['of']}"


def test_no_page_is_wider_than_a_narrow_window(open_page, puzzles):
    with open_page(puzzles.store) as page:
        page.set_viewport_size({"width": 400, "height": 800})
        for place, there in (
            ("#/", "run-row"),
            (f"#/run/{puzzles.vote}?tab=votes", "vote-row"),
            (f"#/compare/{puzzles.game}/{puzzles.other_game}", "twins-row"),
        ):
            page.evaluate("place => { location.hash = place; }", place)
            page.get_by_test_id(there).first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, place


def test_on_a_narrow_window_nothing_is_cut_off(open_page, puzzles):
    with open_page(puzzles.store, f"#/run/{puzzles.game}?tab=graph") as page:
        page.set_viewport_size({"width": 400, "height": 800})
        page.get_by_test_id("graph-canvas").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        show_pane = "location.hash = location.hash + '&thought=1'"
        page.evaluate(show_pane)
        page.get_by_test_id("thought-title").wait_for()
        expect(page.get_by_test_id("pane")).to_be_visible()
        page.get_by_label("Close").click()
        expect(page.get_by_test_id("pane")).to_be_hidden()


# The least contrast between a text and what is behind it, over all texts in sight (WCAG 2: 4.5 for small texts).
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) {
        return color;
      }
    }
    return [255, 255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let lowest = 21;
  let of = "";
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (texts.currentNode.data.trim() === "" || !element.checkVisibility() || element.closest(":disabled, noscript")) {
      continue;
    }
    const [one, other] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < lowest) {
      [lowest, of] = [contrast, `${element.className} ${texts.currentNode.data}`];
    }
  }
  return { lowest, of };
}"""


def pane_of(module, outcome):
    """What the pane of a call says that failed once, from 2 to 2.5 seconds after the run began."""
    attempt = {"call": 1, "at": 2.5, "duration_s": 0.5, "status": "429", "error": "slow down", "is_billed": False}
    sent = {"id": 1, "path": "", "node": "n", "backend": "b", "question": 1, "first_sample": 0, "num_samples": 1}
    call = {**sent, "sent_at": 2.0, "outcome": outcome, "attempts": [attempt]}
    return module("call_pane.js")(
        """
        const model = { run: null, calls: new Map([[1, given]]), search: () => undefined };
        const pane = m.createCallPane({ model, id: 1, loadCall: () => new Promise(() => {}), onSelect() {} });
        pane.update();
        return pane.element.textContent;
        """,
        call,
    )


def test_a_failed_attempt_is_told_from_when_it_began(module):
    said = pane_of(module, None)
    assert "after 2.0 s, for 500 ms: status 429" in said
    assert "sentafter 2.0 s" in said


def test_a_call_of_the_run_that_this_one_was_forked_from_has_no_time_in_it(module):
    outcome = {"call": 1, "state": "settled", "source": "fork", "duration_s": 1.0, "usage": None, "error": None}
    said = pane_of(module, outcome)
    assert "sentafter" not in said
    assert "from the run it was forked from" in said


def test_the_browsers_back_undoes_tabs_and_not_each_thought(game, puzzles):
    path = solution_of(puzzles)
    show(game, path[-1])
    game.keyboard.press("ArrowUp")
    for tab in ("timeline", "calls"):
        game.locator(f"[data-tab={tab}]").click()
        game.locator(f"[data-shown={tab}]").wait_for()
    game.go_back()
    game.locator("[data-shown=timeline]").wait_for()
    game.go_back()
    game.locator("[data-shown=thoughts]").wait_for()
    expect(game.get_by_test_id("thought-title")).to_have_text(f"Thought {path[-2]}", use_inner_text=True)
    game.go_forward()
    game.locator("[data-shown=timeline]").wait_for()
