"""A real Chromium, and real runs for it to look at.

While playwright is open, this thread has a running event loop: what needs one of its own runs in another thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import LLMProgError
from llmprog.programs import arithmetic, game24
from llmprog.runs.store import DirectoryStore
from llmprog.viewer import bundle
from llmprog.viewer.background import viewing

sys.path.append(str(Path(__file__).parent))  # timelines.py, which pytest's importlib mode does not put there

FLAGS = [
    "--no-sandbox",  # of containers; nothing but this machine's own pages is opened
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # names of other machines lead nowhere
]


def chromium():
    """The browser of this machine, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")  # not longer: the async tests of other modules need an event loop of their own
def browser():
    path = chromium()
    if path is None:
        reason = "no Chromium on this machine; on Debian: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Watched:
    """A page, and all that it did besides showing itself.

    Attributes:
        page: The page.
        requests: The addresses that it asked for.
        said: What it wrote to the console, warnings and errors only, and errors that nobody caught.
        dialogs: What it asked the user.
    """

    def __init__(self, page):
        self.page = page
        self.requests, self.said, self.dialogs = [], [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda line: self.said.append(line.text) if line.type in ("warning", "error") else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", self._dialog)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def watched(browser):
    """A new page in a profile of its own; a test that opens it sees all that it does."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def page(watched):
    return watched.page


@pytest.fixture
def gathered(page):
    """Waits, a minute at most, until a list of the page is so long: ``gathered("told", 5)`` gives its first five."""
    code = """async ([name, count]) => {
        const end = performance.now() + 60_000;
        while (window[name].length < count && performance.now() < end) {
          await new Promise((done) => setTimeout(done, 20));
        }
        return window[name].slice(0, count);
    }"""
    return lambda name, count: page.evaluate(code, [name, count])


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "runs")


@pytest.fixture
def open_page(page):
    """Opens a viewer of a store in a browser that is logged in; the viewer ends with the block."""

    @contextmanager
    def opened(store, place="", **options):
        with viewing(store, **options) as url:
            page.goto(url)
            if place:
                page.goto(url.partition("/login")[0] + "/" + place)
            yield page

    return opened


@pytest.fixture
def module(page):
    """A module of the page, for what it exports to be called: ``module("graph_layout.js")`` evaluates JavaScript that
    finds its exports in ``m``, and what it is given in ``given``.
    """

    def loaded(name):
        page.evaluate(f"window.m = {bundle.script(name)}; 0")
        return lambda code, given=None: page.evaluate(f"given => {{ const m = window.m; {code} }}", given)

    return loaded


@pytest.fixture
def mount(page):
    """A view on a page of its own: ``mount("graph_view.js", "createGraphView", batches, path="")``.

    In the page it is ``view``, its model ``model``, and ``picked`` is what was selected in it, in order.
    """

    def mounted(name, factory, batches, **options):
        page.set_content(
            f"<!doctype html><style>{bundle.style()} #place {{ height: 640px }}</style><div id=place></div>"
        )
        page.evaluate(f"window.models = {bundle.script('model.js')}; window.views = {bundle.script(name)}; 0")
        page.evaluate(
            """([factory, batches, options]) => {
                window.model = new models.RunModel();
                batches.forEach((batch) => model.apply(batch));
                window.picked = [];
                const pick = (id) => picked.push(id);
                window.view = views[factory]({ model, onSelect: pick, onSelectCall: pick, ...options });
                document.getElementById("place").append(view.element);
                model.onChange(() => view.update());
            }""",
            [factory, batches, options],
        )
        page.locator("canvas[data-drawn]").first.wait_for()
        return page

    return mounted


class Painted:
    """What is painted on canvases: called with a test id, how many points have each colour, once all is drawn."""

    def __init__(self, page):
        self._page = page

    def __call__(self, testid):
        return self._page.get_by_test_id(testid).evaluate(
            """async (canvas) => {
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                const counts = {};
                for (let at = 0; at < data.length; at += 4) {
                    const color = "#" + [0, 1, 2].map((part) => data[at + part].toString(16).padStart(2, "0")).join("");
                    counts[color] = (counts[color] ?? 0) + 1;
                }
                return counts;
            }"""
        )

    def of(self, name):
        """The colour that a custom property has now."""
        return self._page.evaluate("name => getComputedStyle(document.body).getPropertyValue(name).trim()", name)


@pytest.fixture
def painted(page):
    return Painted(page)


class Waiting(ScriptedBackend):
    """Answers a few calls, and the others once ``go`` is set."""

    def __init__(self, before):
        super().__init__(lambda prompt, sample: f"Answer: {40 + sample % 3}")
        self.go = threading.Event()
        self.is_waiting = threading.Event()
        self._left = before

    async def generate(self, request):
        self._left -= 1
        if self._left < 0:
            self.is_waiting.set()
            await asyncio.to_thread(self.go.wait, 250)
        return await super().generate(request)


@pytest.fixture
def under_way():
    """Begins a run that waits for its model; gives the model and the run's id, and lets it go on in the end."""

    @contextmanager
    def begun(store, before=2, num_samples=5):
        model = Waiting(before)

        def work():
            try:
                run(arithmetic(num_samples=num_samples), "17 + 25", backend=model, seed=1, store=store)
            except LLMProgError:  # its file was taken away
                return

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert model.is_waiting.wait(60)
            yield model, store.list()[0].id
        finally:
            model.go.set()
            thread.join(60)

    return begun


class PuzzleRuns:
    """Real runs of the embedded model, made once: two of the game of 24, which differ in their beams, and a vote.

    Attributes:
        store: Where they are.
        game, other_game, vote: Their ids.
        result: What the first came to.
    """

    def __init__(self, store):
        def made(program, given, seed):
            return run(program, given, backend="local:puzzles", seed=seed, store=store)

        self.store = store
        self.result = made(game24(), "4 9 10 13", 5)
        self.game = self.result.run_id
        self.other_game = made(game24(beam_width=3), "4 9 10 13", 6).run_id
        self.vote = made(arithmetic(num_samples=20), "17 + 25", 1).run_id


@pytest.fixture(scope="session")
def puzzles(tmp_path_factory):
    return PuzzleRuns(DirectoryStore(tmp_path_factory.mktemp("puzzles")))
