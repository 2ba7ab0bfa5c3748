"""Hostile texts in every place that a run has for texts, looked at in every view: they are shown, and that is all."""

from __future__ import annotations

import asyncio
import io
import os
import re
import runpy
import subprocess
import sys
import threading
import unicodedata
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from llmprog import Program, checker, cli, generator, run
from llmprog import map as map_rows
from llmprog.backends import ScriptedBackend
from llmprog.backends.recording import Recorder, RecordingBackend
from llmprog.errors import BackendError
from llmprog.exports import write_export
from llmprog.nodes import Verdict
from llmprog.runs.info import RunInfo
from llmprog.runs.store import DirectoryStore
from llmprog.search import BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Usage
from llmprog.viewer.background import viewing

HERE = Path(__file__).parent
CORPUS = runpy.run_path(str(HERE / "hostile_texts.py"))
TEXTS = CORPUS["TEXTS"]
LLMPROG = Path(sys.executable).with_name("llmprog")
SOME = TEXTS[:: len(TEXTS) // 24]  # where each costs a page of its own
PAUSE_MS = 30
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # as rich writes it
WATCH = "globalThis.numRan = 0; globalThis.ran = () => { globalThis.numRan += 1; return 1; };"
FOREIGN = "iframe, object, embed, img, video, audio, form, base, template, math, svg script, svg a, [style*='url(' i]"


def text_of(number):
    return TEXTS[number % len(TEXTS)]


# ------------------------------------------------------------------------------------------------ runs


def answered(prompt, sample, violation=None):
    """A completion that is hostile wherever it has a text."""
    text = text_of(sample)
    tokens = tuple(re.findall(r"(?s).{1,7}", text))[:300]
    logprobs = Logprobs(tokens=tokens, logprobs=tuple(-0.1 * (i % 9) for i in range(len(tokens))))
    return Completion(
        text=text, reasoning=text, logprobs=logprobs, usage=Usage(1, 1, 1, 0.0), model=text[:200], violation=violation
    )


@generator(prompt="after {state}", n=len(TEXTS), name="<img src=x onerror=ran()>")
def grow(state, completion):
    return [completion]


@checker(name="<script>ran()</script>")
def judge(state):
    number = TEXTS.index(state) if state in TEXTS else 0
    return Verdict(valid=number % 3 != 1, score=number / 10, reason=text_of(number + 1))


@generator(prompt="reckon {state}", name="__proto__")
def reckon(state, completion):
    return [completion]


def tree():
    """A search whose every thought, verdict and answer is hostile."""
    return Program(
        name="</title><script>ran()</script>",
        generators=[grow],
        checkers=[judge],
        controller=BreadthFirstSearch(max_depth=1, stop_on_goal=False),
        goal=lambda state: state == CORPUS["HANDLERS"][4],
        answer=str,
    )


def vote():
    return Program(name="constructor", generators=[reckon], controller=SelfConsistency(num_samples=len(TEXTS)))


class Failing(ScriptedBackend):
    async def generate(self, request):
        raise BackendError("".join(TEXTS[:150])[:50_000], backend=self.id)


async def write_by_hand(store):
    """A run that holds what programs seldom do: attempts, canvases, rows, several searches, all of them hostile."""
    given = {"program": text_of(3), "program_hash": text_of(4), "program_text": "".join(TEXTS[:100])}
    config = {"backend": text_of(5), "seed": text_of(6), "labels": {"command": {"settings": TEXTS[:20]}}}
    versions = {text[:100]: text[:100] for text in TEXTS[:80]}
    journal = store.create(RunInfo(kind="map", **given, input=TEXTS[:50], config=config, versions=versions))
    for number, text in enumerate(TEXTS[:60]):
        path = str(number) if number % 2 else text[:60]
        calls = journal.at(path)
        request = Request(prompt=Prompt.from_text(text), params=SamplingParams(stop=(text[:20] or "x",)))
        call = await calls.send(text[:60], text[:60], request, Usage(1))
        calls.note_attempt(call, BackendError(text, backend="b", status=429), 0.1)
        if number % 4 == 0:
            await calls.fail(call, BackendError(text, backend="b"), Usage(), 0.5)
        else:
            await calls.settle(call, [answered("", number, violation=text)], Usage(1, 1, 1, None), 0.1)
        origin = {"node": text, "sample": 0, "call": request.digest()}
        first = {"id": 0, "parents": [], "state": text, "goal": False, "node": "", "sample": 0, "call": None}
        second = {"id": 1, "parents": [0], "state": text, "goal": True, "full": text, "answer": text, **origin}
        verdict = {"thought": 1, "checker": text, "score": float("inf"), "valid": True, "reason": text}
        journal.event(path, "began", {"has_goal": True})
        journal.event(path, "thoughts", [first, second, {"again": 1, "parents": [1], **origin}])
        journal.event(path, "verdicts", [verdict | {"score": "inf"}])
        journal.event(path, "pruned", [{"thought": 0, "reason": text}])
        counts = {"num_samples": 2, "num_valid": 2, "num_allowed": 3, "confidence": 0.5}
        journal.event(
            path, "votes", {"histogram": [{"answer": text, "votes": 2}, {"answer": "", "votes": 1}], **counts}
        )
        steps = [
            {"at": 0.0, "length": 3, "changes": [[0, text, 0.5], [2, text, None]]},
            {"at": 0.1, "length": 3, "changes": [[1, text, 1.0]]},
            {"at": 0.2, "text": text},
        ]
        journal.event(path, "canvas", {"call": request.digest(), "sample": 0, "steps": steps})
        journal.event(path, "finished", {"stopped": text, "thought": 1})
    await journal.finish("failed", {"answer": text_of(40), "error": text_of(41), "stopped": text_of(42)})
    await journal.aclose()
    return journal.id


def in_a_thread(work):
    """What ``work`` returns; playwright holds the event loop of this one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


class Hostile:
    """A store of hostile runs, their ids, and which tabs each of them has."""

    def __init__(self, directory):
        self.store = DirectoryStore(directory)
        model = ScriptedBackend(answered)
        self.tree = run(tree(), f"<u>{TEXTS[0]}", backend=model, seed=1, store=self.store).run_id
        self.vote = run(vote(), "?", backend=model, seed=1, store=self.store).run_id
        with pytest.raises(BackendError):
            run(tree(), TEXTS[7], backend=Failing(answered), seed=1, store=self.store)
        self.failed = self.store.list()[0].id
        few = Program(name="then", generators=[reckon], controller=SelfConsistency(num_samples=2))
        map_rows(few, TEXTS[:30], backend=model, seed=1, store=self.store, gold=None, concurrency=1)
        self.job = self.store.list()[0].id
        self.by_hand = in_a_thread(lambda: asyncio.run(write_by_hand(self.store)))
        seen = ["graph", "thoughts", "timeline", "calls"]
        self.tabs = {
            self.tree: seen,
            self.vote: [*seen, "votes"],
            self.failed: seen,
            self.job: [*seen, "votes", "rows"],
            self.by_hand: [*seen, "votes", "playback", "rows"],
        }


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return Hostile(tmp_path_factory.mktemp("hostile") / "runs")


def test_there_are_many_texts_and_no_two_are_the_same():
    assert len(set(TEXTS)) == len(TEXTS) >= 100


# ------------------------------------------------------------------------------------------------ looking


@pytest.fixture
def looked_at(watched):
    """The page, counting what is run on it; whatever a test does there, nothing but showing may have happened."""
    pages = []
    watched.page.context.on("page", lambda page: pages.append(page.url))
    watched.page.add_init_script(WATCH)
    yield watched
    page = watched.page
    assert page.evaluate("globalThis.numRan") == 0
    assert page.evaluate("({}).ran") is None
    assert page.evaluate("selector => document.querySelectorAll(selector).length", FOREIGN) == 0
    assert page.evaluate("document.querySelectorAll('#page, #top').length") == 2
    assert len(page.frames) == 1
    assert pages == []
    assert watched.dialogs == []
    assert watched.said == []


def walk(page, tabs):
    """Look at every tab that there is, which are these, and through its tables to their ends."""
    for tab in tabs:
        page.locator(f"[data-tab={tab}]").click()
        stage = page.get_by_test_id("stage")
        page.locator(f"[data-testid=stage][data-shown={tab}]").wait_for()
        for table in stage.locator(".vt").all():
            for _ in range(4):
                table.evaluate("table => { table.scrollTop += table.clientHeight; }")
                page.wait_for_timeout(PAUSE_MS)
        for button in stage.locator("button").element_handles()[:40]:
            if button.is_visible() and button.is_enabled():  # which depends on those before it
                button.click()
        if stage.locator("canvas:visible").count():
            stage.locator("canvas:visible").first.hover()
        page.wait_for_timeout(PAUSE_MS)
    assert {tab.get_attribute("data-tab") for tab in page.locator("[data-tab]").all()} == set(tabs)


def select(page, kind, number, title):
    """Select a thought or a call through the address, and wait for what is said of it."""
    page.evaluate(f"n => {{ location.hash = location.hash.split('?')[0] + '?tab=graph&{kind}=' + n }}", number)
    page.get_by_test_id(f"{kind}-title").get_by_text(f"{title} {number}", exact=True).wait_for()


def look_at_thoughts(page, few=1):
    """Select the thoughts of the tree one after the other; gives what was said of the states."""
    said = {}
    for number in range(1, len(TEXTS) + 1, few):
        select(page, "thought", number, "Thought")
        said[number] = page.get_by_test_id("thought-state").inner_text()
    return said


@pytest.mark.timeout(300)
@pytest.mark.fault("Hostile", "hostile texts in every field of a run, live", "shown as text; nothing run or fetched")
def test_a_viewer_shows_hostile_texts_and_does_nothing_else(looked_at, hostile):
    page = looked_at.page
    with viewing(hostile.store) as url:
        base = url.partition("/login")[0]
        page.goto(url)
        page.get_by_test_id("run-row").nth(len(hostile.tabs) - 1).wait_for()
        for text in SOME:
            page.get_by_test_id("runs-search").fill(text[:1000])
        page.get_by_test_id("runs-search").fill("")
        for run_id, tabs in hostile.tabs.items():
            page.goto(f"{base}/#/run/{run_id}")
            walk(page, tabs)
        page.goto(f"{base}/#/run/{hostile.by_hand}")
        for call in range(1, 60, 7):
            select(page, "call", call, "Call")
        page.goto(f"{base}/#/run/{hostile.tree}")
        select(page, "call", 1, "Call")
        states = look_at_thoughts(page)
        for number, text in enumerate(TEXTS, 1):
            if text in CORPUS["MARKUP"] + CORPUS["PICTURES"]:
                assert " ".join(text.split()) in " ".join(states[number].split())
        page.goto(f"{base}/#/compare/{hostile.tree}/{hostile.by_hand}")
        page.get_by_test_id("compare-facts").wait_for()
        page.wait_for_timeout(300)
        page.goto(f"{base}/#/nowhere")  # where nobody asks for a server that is gone
        page.get_by_text("There is no such page.").wait_for()
    assert {address for address in looked_at.requests if not address.startswith((f"{base}/", "data:"))} == set()


@pytest.mark.timeout(300)
@pytest.mark.fault(
    "Hostile", "hostile texts in every field of a run, exported", "shown as text; nothing run or fetched"
)
def test_a_file_shows_hostile_texts_and_does_nothing_else(looked_at, hostile, tmp_path):
    page = looked_at.page
    file = tmp_path / "run.html"
    for run_id, tabs in hostile.tabs.items():
        with hostile.store.open(run_id) as kept:
            write_export(kept, "html", file)
        markup = file.read_text()
        assert markup.count("<script>") == markup.count("<style>") == 1
        assert markup.isascii() or not any(text in markup for text in TEXTS if not text.isascii())
        page.goto(file.as_uri())
        walk(page, tabs)
        if run_id == hostile.tree:
            look_at_thoughts(page, few=5)
        assert page.evaluate("globalThis.numRan") == 0
    assert {address.partition("#")[0] for address in looked_at.requests} <= {file.as_uri(), "data:,"}


@pytest.mark.fault("Hostile", "hostile texts in the address of the viewer", "shown as text; nothing run or fetched")
def test_an_address_that_somebody_else_made_does_nothing(looked_at, hostile):
    page = looked_at.page
    with viewing(hostile.store) as url:
        base = url.partition("/login")[0]
        page.goto(url)
        for text in SOME:
            for place in ("run/{}", "compare/{0}/{0}", "run/" + hostile.tree + "?tab={0}&path={0}&thought={0}", "{}"):
                page.evaluate("hash => { location.hash = hash }", f"#/{place.format(text[:300])}")
        page.wait_for_timeout(300)
        assert page.evaluate("globalThis.numRan") == 0
        page.goto(f"{base}/#/nowhere")
        page.reload()  # nothing is under way any more
        # A run that is not there is asked for and not found, which a browser writes to its console.
        looked_at.said[:] = [line for line in looked_at.said if "status of 404" not in line]
    assert all(address.startswith(f"{base}/") for address in looked_at.requests)


@pytest.mark.fault("Hostile", "hostile texts in a page without JavaScript", "shown as text")
def test_a_file_without_javascript_says_what_the_run_was(browser, hostile, tmp_path):
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        file = tmp_path / "run.html"
        for run_id in hostile.tabs:
            with hostile.store.open(run_id) as kept:
                write_export(kept, "html", file)
            page.goto(file.as_uri())
            said = page.locator("noscript, body").first.inner_text()
            assert "JavaScript" in said
            assert run_id in said
        assert set(requests) <= {file.as_uri(), "data:,"}
    finally:
        context.close()


# ------------------------------------------------------------------------------------------------ terminals


def run_command(*arguments, cwd):
    """Exit code, stdout and stderr of a command in a process of its own."""
    done = subprocess.run(
        [str(LLMPROG), *arguments],
        capture_output=True,
        check=False,
        timeout=100,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def printed(*arguments):
    """What a command writes to stdout, run in this process."""
    out = io.StringIO()
    with redirect_stdout(out):
        cli.app(list(arguments), standalone_mode=False)
    return out.getvalue()


def broken_by(text):
    """The characters of a command's output that a terminal would do something with, or that would hide others."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}


@pytest.mark.fault("Hostile", "hostile texts in the commands that show runs", "printed as text")
@pytest.mark.parametrize("colour", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}], ids=["plain", "coloured"])
def test_commands_print_hostile_texts_and_no_control_characters(hostile, monkeypatch, colour):
    for name, value in colour.items():
        monkeypatch.setenv(name, value)
    where = ("--store", str(hostile.store.directory))
    shown = {"ls": printed("runs", "ls", *where)}
    for run_id in hostile.tabs:
        row = ("--row", "1") if run_id in (hostile.job, hostile.by_hand) else ()
        shown[run_id] = printed("runs", "show", run_id, "--calls", "--thoughts", *row, *where)
    for run_id, text in shown.items():
        assert ("\x1b[" in text) == bool(colour)
        assert broken_by(COLOUR.sub("", text) if colour else text) == set()
        assert run_id in text or run_id == "ls"
    assert len(shown[hostile.tree].splitlines()) > len(TEXTS)


PROGRAM = """
from llmprog import Program, checker, generator
from llmprog.nodes import Verdict
from llmprog.search import BreadthFirstSearch

@generator(prompt="after {state}", n=NUMBER)
def grow(state, completion):
    return [completion]

@checker
def judge(state):
    return Verdict(valid=len(state) % 2 == 0, score=1.0, reason=state)

hostile = Program(name="hostile", generators=[grow], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
"""


@pytest.mark.fault("Hostile", "hostile completions in a run on the command line", "printed as text")
@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json",), ("--stream",)], ids=str)
def test_a_run_on_the_command_line_prints_no_control_characters(tmp_path, options):
    (tmp_path / "hostile.py").write_text(PROGRAM.replace("NUMBER", str(len(TEXTS))))
    program = runpy.run_path(str(tmp_path / "hostile.py"))["hostile"]
    with Recorder(tmp_path / "recording.jsonl") as recorder:
        model = RecordingBackend(ScriptedBackend(lambda prompt, sample: text_of(sample)), recorder)
        run(program, "x", backend=model, seed=1)
    backend = ("--backend", "replay:recording.jsonl", "--seed", "1", "--store", "memory")
    code, out, err = run_command("run", "hostile.py:hostile", "x", *backend, *options, cwd=tmp_path)
    assert code in (0, 3), err
    assert broken_by(out) | broken_by(err) == set()
    assert out
