"""How fluid the viewer is with large runs: graphs of 10,000 thoughts, and timelines of 20,000 calls.

    python benchmarks/viewer.py [--thoughts 10000] [--calls 20000] [--seconds 3] [--only graphs|timelines]

The graphs are a tree, and thoughts that are merged again and again; the timelines those of a vote and of a search whose
model answers after some time (``long_runs``). All are real runs in a store of their own, shown by the real server to a
real Chromium, which draws without a graphics card. Times to the first picture and to the whole one count from the
navigation. While a picture is dragged or zoomed, every single frame gets a movement of its own, so no frame comes for
free; at most 60 frames a second are possible. The exported file is opened from disk.

Dragging a timeline is measured where it is zoomed in a little: the whole of it has nowhere to go. A vote is followed
live as well: how often, and for how long at a stretch, the page was busy for longer than 50 ms.

Goals: 50 frames a second while dragging the whole graph, first picture within a second; 50 frames a second while
dragging and zooming a timeline, which is opened within half a second.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import long_runs
from playwright.sync_api import Page, sync_playwright

from llmprog import Program, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.exports import write_export
from llmprog.runs.store import DirectoryStore
from llmprog.search import Aggregate, BreadthFirstSearch, Generate, GraphOfThoughts, OperationGraph
from llmprog.viewer.background import viewing

GOAL_FRAMES = 50.0
GOAL_FIRST_S = 1.0
GOAL_OPENED_S = 0.5
STEPS_PER_CALL = 8
WINDOW = (1280, 800)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


# ------------------------------------------------------------------------------------------------ the runs


@dataclass(frozen=True, slots=True)
class Number:
    """Where a walk among numbers is, and its last step."""

    value: int
    step: str = ""

    def __str__(self) -> str:
        return f"{self.step} = {self.value}" if self.step else str(self.value)


@generator(prompt="Number: {value}\nPossible next steps:\n")
def propose(state: Number, completion: str) -> list[Number]:
    values = (int(word) for word in completion.split())
    return [Number(value, f"{state.value} {value - state.value:+d}") for value in values]


@checker
def small(state: Number) -> bool:
    return state.value % 7 != 3


@checker
def promising(state: Number) -> float:
    return float(state.value % 101)


def next_steps(prompt: str, _sample: int) -> str:
    value = int(prompt.split()[1])
    # Some steps of neighbours lead to the same number, so that states are reached in several ways.
    return " ".join(str(value * 5 + step * 3 % 11) for step in range(STEPS_PER_CALL))


@generator
def one_by_one(numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(number,) for number in numbers]


@generator(aggregates=True)
def join(parts: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    return [tuple(sorted(number for part in parts for number in part)[:12])]


def tree(num_thoughts: int, store: DirectoryStore) -> Any:
    """A breadth-first search that asks a model eight steps at a time."""
    controller = BreadthFirstSearch(max_depth=30, max_thoughts=num_thoughts)
    program = Program(generators=[propose], checkers=[small, promising], controller=controller)
    return run(program, Number(1), backend=ScriptedBackend(next_steps), seed=1, store=store)


def merges(num_thoughts: int, store: DirectoryStore) -> Any:
    """Half as many numbers, merged in pairs until one list is left."""
    count = num_thoughts // 2
    plan: dict[str, Any] = {"split": Generate()}
    plan |= {f"merge {level}": Aggregate(size=2) for level in range(count.bit_length())}
    controller = GraphOfThoughts(operations=OperationGraph(plan))
    program = Program(generators=[one_by_one, join], controller=controller)
    return run(program, tuple(range(count)), seed=1, store=store)


# ------------------------------------------------------------------------------------------------ the browser

WATCH = """
window.seen = { first: null, last: null, drawn: 0 };
(function look() {
    const drawn = Number(document.querySelector("[data-testid=graph-canvas]")?.dataset.drawn ?? 0);
    if (drawn > 0) {
        seen.first ??= performance.now();
    }
    if (drawn > seen.drawn) {
        [seen.drawn, seen.last] = [drawn, performance.now()];
    }
    requestAnimationFrame(look);
})();
"""

# Milliseconds from the click on the timeline's tab to the end of the frame in which it is shown.
OPEN = """
() => new Promise((done) => {
    const begun = performance.now();
    document.querySelector("[data-tab=timeline]").click();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
})
"""

# The stretches of 50 ms and more for which the page was busy, in milliseconds.
BUSY = """
window.busy = [];
new PerformanceObserver((list) => busy.push(...list.getEntries().map((entry) => entry.duration))).observe({
    type: "longtask",
});
"""

# One movement in each frame; gives the times between frames in milliseconds.
MOVE = """
async ([testid, seconds, isZoom]) => {
    const canvas = document.querySelector(`[data-testid=${testid}]`);
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const [x, y] = [left + width / 2, top + height / 2];
    const times = [];
    await new Promise((done) => {
        let begun = null;
        const frame = (now) => {
            begun ??= now;
            times.push(now);
            const at = (now - begun) / 1000;
            if (at >= seconds) {
                done();
                return;
            }
            const [dx, dy] = [240 * Math.sin(at * 2.1), 160 * Math.sin(at * 1.3)];
            const place = { clientX: x + dx, clientY: y + dy, bubbles: true };
            canvas.dispatchEvent(
                isZoom
                    ? new WheelEvent("wheel", { ...place, deltaY: Math.floor(at) % 2 ? 30 : -30, cancelable: true })
                    : new PointerEvent("pointermove", { ...place, pointerId: 1, buttons: 1 }),
            );
            requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    });
    return times.slice(1).map((time, index) => time - times[index]);
}
"""


def frames(page: Page, testid: str, seconds: float, *, is_zoom: bool = False) -> list[float]:
    """Milliseconds between frames while a canvas is dragged or zoomed."""
    box = page.get_by_test_id(testid).bounding_box()
    if box is None:
        raise RuntimeError(f"{testid}: not on the page; allowed is a canvas that is shown")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    if not is_zoom:
        page.mouse.down()
    found: list[float] = page.evaluate(MOVE, [testid, seconds, is_zoom])
    if not is_zoom:
        page.mouse.up()
    return found


def first_and_last(page: Page, num_thoughts: int) -> tuple[float, float]:
    """Seconds from the navigation to the first picture, and to that of all thoughts."""
    page.wait_for_function("count => seen.drawn >= count", arg=num_thoughts, timeout=120_000)
    seen = page.evaluate("seen")
    return seen["first"] / 1000, seen["last"] / 1000


def heap_bytes(page: Page) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"])


# ------------------------------------------------------------------------------------------------ the table


def fluid(measured: list[float]) -> str:
    ordered = sorted(measured)
    p95 = ordered[int(len(ordered) * 0.95)]
    return f"{rate(measured):5.1f} frames/s   p50 {statistics.median(ordered):5.1f} ms   p95 {p95:5.1f} ms"


def rate(measured: list[float]) -> float:
    return 1000 * len(measured) / sum(measured)


def show(page: Page, url: str, store: DirectoryStore, result: Any, seconds: float, directory: Path) -> bool:
    """Measure one run in the viewer and as a file; whether the goals are met."""
    count, base = len(result.graph), url.partition("/login")[0]
    page.goto("about:blank")
    page.goto(f"{base}/#/run/{result.run_id}?tab=graph")
    first_s, all_s = first_and_last(page, count)
    line("thoughts, other edges", page.get_by_test_id("graph-counts").inner_text())
    line("first picture, all thoughts", f"{first_s:.2f} s, {all_s:.2f} s")
    whole = frames(page, "graph-canvas", seconds)
    line("dragging the whole graph", fluid(whole))
    page.get_by_test_id("graph-fit").click()
    line("zooming", fluid(frames(page, "graph-canvas", seconds, is_zoom=True)))
    page.get_by_test_id("graph-fit").click()
    page.get_by_test_id("graph-search").fill("7")
    page.get_by_test_id("graph-search").press("Enter")
    line("dragging where text is read", fluid(frames(page, "graph-canvas", seconds)))
    line("JavaScript heap", f"{heap_bytes(page) / 2**20:.0f} MiB")
    path = directory / f"{result.run_id}.html"
    with store.open(result.run_id) as kept:
        write_export(kept, "html", path)
    page.goto(path.as_uri())
    static_first_s, static_all_s = first_and_last(page, count)
    line("exported file", f"{path.stat().st_size / 2**20:.2f} MiB")
    line("its first picture, all thoughts", f"{static_first_s:.2f} s, {static_all_s:.2f} s")
    return rate(whole) >= GOAL_FRAMES and first_s <= GOAL_FIRST_S and static_first_s <= GOAL_FIRST_S


def show_timeline(page: Page, url: str, run_id: str, seconds: float) -> bool:
    """Measure the timeline of one run; whether the goals are met."""
    page.goto("about:blank")
    page.goto(f"{url.partition('/login')[0]}/#/run/{run_id}?tab=calls")
    page.locator("[data-connection=over]").wait_for(timeout=120_000)
    opened_s = page.evaluate(OPEN) / 1000
    canvas = page.get_by_test_id("timeline-canvas")
    line("calls", f"{int(canvas.get_attribute('data-drawn') or 0):,}")
    page.locator("[data-tab=calls]").click()
    line("opened, opened again", f"{opened_s:.2f} s, {page.evaluate(OPEN) / 1000:.2f} s")
    measured: list[list[float]] = []
    for name, times, is_zoom in (
        ("dragging, a little zoomed in", 1, False),
        ("dragging where names are read", 6, False),
        ("zooming", 0, True),
    ):
        page.get_by_test_id("timeline-fit").click()
        for _ in range(times):
            page.get_by_test_id("timeline-zoom-in").click()
        measured.append(frames(page, "timeline-canvas", seconds, is_zoom=is_zoom))
        line(name, fluid(measured[-1]))
    return opened_s <= GOAL_OPENED_S and all(rate(times) >= GOAL_FRAMES for times in measured)


def follow(page: Page, url: str, store: DirectoryStore, num_calls: int) -> None:
    """Measure a vote that is followed on its timeline until it is over."""
    known = {run.id for run in store.list()}
    work = threading.Thread(target=long_runs.vote, args=(num_calls, store))
    work.start()
    while not (new := [run.id for run in store.list() if run.id not in known]):
        work.join(0.05)
    page.goto("about:blank")
    page.goto(f"{url.partition('/login')[0]}/#/run/{new[0]}?tab=timeline")
    page.locator("[data-testid=timeline-canvas][data-drawn]").wait_for()
    page.evaluate(BUSY)
    page.locator("[data-connection=over]").wait_for(timeout=600_000)
    work.join()
    busy = page.evaluate("busy")
    calls = int(page.get_by_test_id("timeline-canvas").get_attribute("data-drawn") or 0)
    line(
        f"followed live, {calls:,} calls",
        f"{len(busy)} times busy for over 50 ms, at most {max(busy, default=0):.0f} ms",
    )


def line(name: str, value: str) -> None:
    print(f"  {name:<36}{value}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--thoughts", type=int, default=10_000, help="of each run, about (default 10000)")
    parser.add_argument("--calls", type=int, default=20_000, help="of each timeline, about (default 20000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each movement (default 3)")
    parser.add_argument("--only", choices=("graphs", "timelines"), help="measure these (default both)")
    options = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        print("no Chromium on this machine; on Debian: apt-get install chromium")
        return 2
    graphs: dict[str, Callable[[int, DirectoryStore], Any]] = {"a tree": tree, "merged in pairs": merges}
    timelines: dict[str, Callable[[int, DirectoryStore], Any]] = {
        "a vote": long_runs.vote,
        "a search": long_runs.search,
    }
    goals_met = True
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        store = DirectoryStore(Path(name) / "runs")
        made = {} if options.only == "timelines" else {kind: f(options.thoughts, store) for kind, f in graphs.items()}
        sent = {} if options.only == "graphs" else {kind: f(options.calls, store) for kind, f in timelines.items()}
        with viewing(store) as url:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            context = browser.new_context(viewport={"width": WINDOW[0], "height": WINDOW[1]})
            context.add_init_script(WATCH)
            page = context.new_page()
            page.goto(url)
            print(f"Chromium {browser.version}, {WINDOW[0]} x {WINDOW[1]}, drawn by the CPU")
            for kind, result in made.items():
                print(f"\n{kind}: {len(result.graph):,} thoughts")
                goals_met &= show(page, url, store, result, options.seconds, Path(name))
            for kind, result in sent.items():
                print(f"\ntimeline of {kind}")
                goals_met &= show_timeline(page, url, result.run_id, options.seconds)
            if sent:
                print("\ntimeline of a vote under way")
                follow(page, url, store, options.calls)
            browser.close()
    verdict = "met" if goals_met else "MISSED"
    print(
        f"\ngoals {verdict}: {GOAL_FRAMES:.0f} frames/s dragging, {GOAL_FIRST_S:.0f} s to the first picture, "
        f"{GOAL_OPENED_S} s to a timeline"
    )
    return 0 if goals_met else 1


if __name__ == "__main__":
    raise SystemExit(main())
