"""Denoising, played back: real runs of diffusion and hybrid decoders, and what a backend may make up."""

from __future__ import annotations

import itertools
import re

import pytest
from looking import expect

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.backends.base import Capabilities
from llmprog.exports import write_export
from llmprog.programs import arithmetic
from llmprog.programs.sudoku import sudoku
from llmprog.runs.store import DirectoryStore
from llmprog.types import CanvasToken, Completion, Delta
from llmprog.viewer.canvases import full_steps

BOARD = "1 . 3 .\n. . . 2\n. 1 . .\n. . 4 ."
DECODERS = {
    "masked": "masked_diffusion",
    "remasked": "masked_diffusion&unmask=quota&remask=cap&remask_eta=0.5",
    "hybrid": "hybrid&alpha0=0.5",
    "uniform": "uniform_diffusion",
}


class Recorded:
    """Runs of sudoku that streamed: their ids by decoder, and the steps of each one's first canvas."""

    def __init__(self, store):
        self.store = store
        self.ids, self.steps = {}, {}
        for name, decoder in DECODERS.items():
            backend = f"local:puzzles?decoder={decoder}"
            self.ids[name] = run(sudoku(), BOARD, backend=backend, seed=1, store=store, stream=True).run_id
            with store.open(self.ids[name]) as kept:
                self.steps[name] = full_steps(next(kept.events(kind="canvas")).data)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    return Recorded(DirectoryStore(tmp_path_factory.mktemp("recorded")))


@pytest.fixture
def still(page):
    """Motion is not wanted: nothing plays by itself."""
    page.emulate_media(reduced_motion="reduce")


@pytest.fixture
def playing(open_page, recorded):
    """Opens the playback of a run; waits for its first canvas."""
    opened = []

    def opener(name):
        place = open_page(recorded.store, f"#/run/{recorded.ids[name]}?tab=playback")
        opened.append(place)
        page = place.__enter__()
        page.get_by_test_id("canvas-token").first.wait_for()
        return page

    yield opener
    for place in opened:
        place.__exit__(None, None, None)


def step(page):
    return int(page.get_by_test_id("playback-scrubber").input_value())


def wait_for(page, number):
    page.get_by_test_id("playback-where").get_by_text(f"step {number} of").wait_for()


def shown(page):
    """The canvas as it is shown: its tokens, a mask as None."""
    found = page.get_by_test_id("canvas-token").evaluate_all(
        "all => all.map((one) => [one.classList.contains('is-mask') ? null : one.textContent, one.className])"
    )
    return [(text if text is None else text.replace("⏎\n", "\n"), classes.split()) for text, classes in found]


def told(tokens):
    return [None if text is None else text if text == "\n" else text.strip() for text, _ in tokens]


@pytest.mark.parametrize("name", DECODERS)
def test_every_step_shows_the_canvas_as_it_was(playing, recorded, still, watched, name):
    page, steps = playing(name), recorded.steps[name]
    page.get_by_test_id("playback-first").click()
    for number, expected in enumerate(steps):
        assert step(page) == number
        expect(page.get_by_test_id("playback-where")).to_contain_text(
            f"step {number} of {len(steps) - 1}", use_inner_text=True
        )
        canvas = shown(page)
        assert [text for text, _ in canvas] == told(expected["tokens"])
        before = steps[number - 1]["tokens"] if number else expected["tokens"]
        for (_, classes), (old, _), (new, _) in zip(canvas, before, expected["tokens"], strict=False):
            assert ("is-written" in classes) == (old is None and new is not None)
            assert ("is-masked" in classes) == (old is not None and new is None)
            assert ("is-changed" in classes) == (None not in (old, new) and old != new)
        page.get_by_test_id("playback-on").click()
    assert step(page) == len(steps) - 1
    assert watched.said == []
    again = any(
        old[0] is not None and new[0] is None
        for before, after in itertools.pairwise(steps)
        for old, new in zip(before["tokens"], after["tokens"], strict=False)
    )
    assert again == (name == "remasked")


def test_a_token_is_the_bluer_the_likelier_it_was(playing, recorded, still):
    page = playing("masked")
    tokens = recorded.steps["masked"][-1]["tokens"]
    blues = page.get_by_test_id("canvas-token").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    reds = [float(re.findall(r"[\d.]+", colour)[0]) for colour in blues]  # the less red, the bluer
    ranked = sorted(zip((p for _, p in tokens), reds, strict=True), key=lambda pair: pair[0])
    assert [red for _, red in ranked] == sorted(reds, reverse=True)
    assert len(set(reds)) > 3
    least = min(range(len(tokens)), key=lambda i: tokens[i][1])
    title = page.get_by_test_id("canvas-token").nth(least).get_attribute("title")
    assert title.startswith(f"probability {round(100 * tokens[least][1])} %")


def test_it_plays_by_itself_and_stops_at_the_end(playing, recorded, gathered):
    page, last = playing("masked"), len(recorded.steps["masked"]) - 1
    page.get_by_test_id("playback-speed").select_option("25")
    wait_for(page, last)
    page.get_by_role("button", name="Play (space)").wait_for()
    page.get_by_test_id("playback-speed").select_option("recorded")
    page.evaluate("""() => {
        window.names = [];
        const button = document.querySelector("[data-testid=playback-play]");
        new MutationObserver(() => names.push(button.ariaLabel)).observe(button, { attributeFilter: ["aria-label"] });
    }""")
    page.get_by_test_id("playback-play").click()  # again, from the beginning
    assert gathered("names", 2) == ["Pause (space)", "Play (space)"]
    assert step(page) == last


def test_where_motion_is_not_wanted_the_end_is_shown_and_nothing_plays(playing, recorded, still):
    page = playing("masked")
    assert step(page) == len(recorded.steps["masked"]) - 1
    expect(page.get_by_test_id("playback-play")).to_have_attribute("aria-label", "Play (space)")


def test_the_keyboard_plays_it(playing, recorded, still):
    page, last = playing("hybrid"), len(recorded.steps["hybrid"]) - 1
    page.get_by_test_id("playback-speed").select_option("1")  # it does not come to its end meanwhile
    page.get_by_label("Player").focus()
    page.keyboard.press("ArrowLeft")
    assert step(page) == last - 1
    page.keyboard.press("ArrowRight")
    assert step(page) == last
    page.keyboard.press("Home")
    assert step(page) == 0
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause (space)").wait_for()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play (space)").wait_for()
    page.keyboard.press("End")
    assert step(page) == last
    page.get_by_test_id("playback-scrubber").focus()
    page.keyboard.press("ArrowLeft")
    assert step(page) == last - 1


def test_the_order_of_writing_leads_to_steps(playing, recorded, still):
    page, steps = playing("masked"), recorded.steps["masked"]
    pairs = list(itertools.pairwise(step["tokens"] for step in steps))
    changed = [
        [s for s, (old, new) in enumerate(pairs, 1) if old[i] != new[i]] for i in range(len(steps[-1]["tokens"]))
    ]
    settled = [when[-1] for when in changed]
    titles = page.locator("[data-testid=order-strip] title").all_text_contents()
    steps_of = {}
    for title in titles:
        first, last, which = re.fullmatch(r"tokens? (\d+)(?: to (\d+))?: step (\d+)", title).groups()
        steps_of |= dict.fromkeys(range(int(first) - 1, int(last or first)), int(which))
    assert [steps_of[i] for i in range(len(settled))] == settled
    counts = page.locator("[data-testid=settled-bars] title").all_text_contents()
    assert counts == [
        f"step {s}: {settled.count(s)} token{'s' * (settled.count(s) != 1)}" for s in range(1, len(steps))
    ]
    page.locator("[data-testid=settled-bars] .playback-target").nth(2).click()
    assert step(page) == 3


def test_another_canvas_is_chosen_from_the_list(playing, recorded, still):
    page = playing("masked")
    rows = page.get_by_test_id("canvases-row")
    with recorded.store.open(recorded.ids["masked"]) as kept:
        steps = [full_steps(event.data) for event in kept.events(kind="canvas")]
    assert rows.count() == len(steps) > 1
    rows.nth(1).click()
    page.get_by_test_id("playback-about").get_by_text("call 2").wait_for()
    wait_for(page, len(steps[1]) - 1)
    assert [text for text, _ in shown(page)] == told(steps[1][-1]["tokens"])


def test_the_thought_that_came_of_it_leads_to_it(open_page, recorded, still):
    with open_page(recorded.store, f"#/run/{recorded.ids['masked']}?tab=graph&thought=1") as page:
        page.get_by_test_id("play").click()
        page.get_by_test_id("canvas-token").first.wait_for()
        assert [text for text, _ in shown(page)] == told(recorded.steps["masked"][-1]["tokens"])


def test_a_canvas_that_cannot_be_read_is_said(playing, recorded, still):
    page = playing("masked")
    page.route("**/canvases/**", lambda route: route.abort())
    page.get_by_test_id("canvases-row").nth(1).click()
    page.get_by_text("This canvas cannot be shown:").wait_for()
    expect(page.get_by_test_id("canvas")).to_be_hidden()


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    " <svg/onload=alert(3)>",
    "\x1b[2J\x1b]0;gone\x07",
    "\u202egnp.exe",
    "",
]


class MadeUp(ScriptedBackend):
    """Streams canvases of hostile tokens, or texts without tokens."""

    def __init__(self, has_tokens):
        super().__init__(lambda prompt, sample: "Answer: 42")
        self.has_tokens = has_tokens
        self.capabilities = Capabilities(seed=True, stream="replace")

    async def stream(self, request, on_delta):
        for count in range(len(HOSTILE) + 1):
            canvas = tuple(CanvasToken(text, 0.5) if i < count else CanvasToken(None) for i, text in enumerate(HOSTILE))
            text = "".join(HOSTILE[:count])
            on_delta(Delta(sample=0, text=text, replaces=True, canvas=canvas if self.has_tokens else None))
        return [Completion(text="Answer: 42")]


@pytest.mark.parametrize("has_tokens", [True, False])
def test_hostile_text_stays_text(open_page, store, still, watched, has_tokens):
    kept = run(arithmetic(num_samples=1), "6 * 7", backend=MadeUp(has_tokens), seed=1, store=store, stream=True)
    with open_page(store, f"#/run/{kept.run_id}?tab=playback") as page:
        canvas = page.get_by_test_id("canvas")
        canvas.get_by_text("alert(1)").first.wait_for()
        expect(canvas).to_contain_text("\\x1b[2J\\x1b]0;gone\\x07", use_inner_text=True)
        expect(canvas).to_contain_text("\\u{202e}gnp.exe", use_inner_text=True)
        expect(page.locator("[data-testid=canvas] :is(script, img, svg)")).to_have_count(0)
        expect(page.get_by_test_id("order-strip")).to_be_visible(visible=has_tokens)
        expect(page.get_by_test_id("canvas-legend")).to_be_visible(visible=has_tokens)
        assert watched.dialogs == watched.said == []


def test_a_file_plays_back_without_a_server(page, recorded, still, watched, tmp_path):
    with recorded.store.open(recorded.ids["hybrid"]) as kept:
        write_export(kept, "html", tmp_path / "run.html")
    page.goto(f"file://{tmp_path}/run.html")
    page.locator("[data-tab=playback]").click()
    page.get_by_test_id("canvas-token").first.wait_for()
    assert [text for text, _ in shown(page)] == told(recorded.steps["hybrid"][-1]["tokens"])
    assert watched.requests == [f"file://{tmp_path}/run.html"]
    assert watched.said == []


def test_a_resumed_run_keeps_what_was_written_before(open_page, store, still):
    backend = "local:puzzles?decoder=masked_diffusion"
    options = {"backend": backend, "seed": 1, "store": store, "stream": True}
    cut = run(sudoku(), BOARD, budget="calls=2", **options)
    resumed = run(sudoku(), BOARD, resume=cut.run_id, **options)
    assert cut.stopped == "budget"
    assert resumed.solved
    with store.open(resumed.run_id) as kept:
        assert [event.data["call"] for event in kept.events(kind="canvas")] == [
            call.question.digest() for call in kept.calls()
        ]
    with open_page(store, f"#/run/{resumed.run_id}?tab=playback") as page:
        page.get_by_test_id("canvas-token").first.wait_for()
        assert page.get_by_test_id("canvases-row").count() == resumed.usage.calls == 3
