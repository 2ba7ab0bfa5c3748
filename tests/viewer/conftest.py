"""A real Chromium, and real runs for it to look at.

While playwright is open, this thread has a running event loop: what needs one of its own runs in another thread.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

from llmprog.runs.store import DirectoryStore
from llmprog.viewer.background import viewing

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
    context.set_default_timeout(30_000)
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def page(watched):
    return watched.page


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
