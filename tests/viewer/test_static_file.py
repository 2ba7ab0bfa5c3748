"""A run as one file: the page of the viewer with the run's data in it, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import html
import json
import random
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from looking import expect

from llmprog import Program, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.exports import export, write_export
from llmprog.runs.info import RunInfo
from llmprog.search import SelfConsistency
from llmprog.viewer.details import call_details
from llmprog.viewer.feed import RunFeed

BLOCK = re.compile(r'<script type="application/gzip\+base64" data-(\w+)(?:="([^"]*)")?>([^<]*)</script>')


def exported(store, run_id):
    with store.open(run_id) as kept:
        return b"".join(export(kept, "html")).decode()


def unpacked(text):
    """The data of a file: by kind, by key."""
    found = {}
    for kind, key, packed in BLOCK.findall(text):
        value = json.loads(gzip.decompress(base64.b64decode(packed, validate=True)))
        found.setdefault(kind, {}).setdefault(html.unescape(key), []).append(value)
    return found


def batches_of(text):
    return [batch for block in unpacked(text)["batches"][""] for batch in block]


@generator(prompt="after {state}", n=3)
def grow(state, completion):
    return [f"{state}{completion}"]


def test_the_data_are_those_that_the_server_gives(puzzles):
    text = exported(puzzles.store, puzzles.game)
    with puzzles.store.open(puzzles.game) as kept:
        feed, told = RunFeed(kept), []
        while not (told and "end" in told[-1]):
            told += feed.read()
        numbers = [call.id for call in kept.calls()]
        details = [call_details(kept, number) for number in numbers]
    assert batches_of(text) == json.loads(json.dumps(told))
    blocks = unpacked(text)["calls"]
    assert list(blocks) == [str(key) for key in range(numbers[-1] // 100 + 1)]
    assert [call for (block,) in blocks.values() for call in block] == json.loads(json.dumps(details))


def test_the_file_is_the_same_each_time(puzzles):
    assert exported(puzzles.store, puzzles.vote) == exported(puzzles.store, puzzles.vote)


def test_the_policy_names_the_one_script_and_the_one_style_before_anything_else(puzzles):
    text = exported(puzzles.store, puzzles.vote)
    head, _, rest = text.partition("<meta http-equiv=")
    assert not re.search("<script|<style|<link", head)
    policy = re.match(r'"Content-Security-Policy" content="([^"]*)"', rest)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)

    def named(content):
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == named(script)
    assert rules["style-src"] == named(style)
    assert not re.search(r"unsafe|'self'|https?:|\*", policy)
    assert set(re.findall(r'\s(?:src|href)="([^"#]+)"', BLOCK.sub("", text).replace(script, ""))) == {"data:,"}


def test_it_opens_from_the_disk_without_a_network(watched, puzzles, tmp_path):
    file = tmp_path / "run.html"
    with puzzles.store.open(puzzles.game) as kept:
        write_export(kept, "html", file)
    page = watched.page
    page.context.set_offline(True)
    page.goto(f"{file.as_uri()}#/run?tab=thoughts")
    page.get_by_test_id("thoughts-row").first.wait_for()
    expect(page.get_by_test_id("run-status").first).to_have_text("finished", use_inner_text=True)
    expect(page.get_by_test_id("run-outcome")).to_contain_text(str(puzzles.result.answer), use_inner_text=True)
    page.get_by_test_id("thoughts-row").nth(1).click()
    page.get_by_test_id("thought-state").wait_for()
    page.get_by_test_id("completion").first.wait_for()  # unpacked when it is looked at
    page.locator("[data-tab=calls]").click()
    page.get_by_test_id("calls-row").nth(1).click()
    page.get_by_test_id("call-title").wait_for()
    assert {request.partition("#")[0] for request in watched.requests} <= {file.as_uri(), "data:,"}
    assert watched.said == []


def test_a_run_under_way_is_written_as_far_as_it_has_come(store, under_way):
    with under_way(store) as (_, run_id):
        batches = batches_of(exported(store, run_id))
    assert batches[0]["run"]["is_live"]
    assert batches[-1] == {"end": True}
    assert sum(len(batch.get("calls", ())) for batch in batches) >= 3


def test_without_javascript_the_main_facts_are_there(store):
    model = ScriptedBackend(lambda prompt, sample: "<b>4</b>")
    program = Program(name="<i>", generators=[grow.with_options(n=1)], controller=SelfConsistency(num_samples=2))
    text = exported(store, run(program, "2 & 2", backend=model, seed=1, store=store).run_id)
    (said,) = re.findall(r"<noscript>(.*?)</noscript>", text, re.DOTALL)
    for fact in ("&lt;i&gt;", "2 &amp; 2&lt;b&gt;4&lt;/b&gt;", "finished", "2 calls", "JavaScript"):
        assert fact in said
    assert "<b>" not in said
    assert "<title>&lt;i&gt;, run " in text


def test_a_large_run_is_in_memory_a_few_batches_at_a_time(store):
    async def write(num_thoughts):
        info = RunInfo(kind="run", program="p", program_hash="h", program_text="t", input=None, config={})
        journal = store.create(info)
        journal.event("", "began", {"has_goal": False})
        origin = {"node": "grow", "sample": 0, "call": None, "goal": False}
        for number in range(num_thoughts):
            state = random.Random(number).randbytes(600).hex()
            parents = [number // 3] if number else []
            journal.event("", "thoughts", [{"id": number, "parents": parents, "state": state, **origin}])
        await journal.finish("finished", None)
        await journal.aclose()
        return journal.id

    def peak(num_thoughts):
        with ThreadPoolExecutor(1) as threads:  # playwright holds the event loop of this one
            run_id = threads.submit(lambda: asyncio.run(write(num_thoughts))).result()
        with store.open(run_id) as kept:
            tracemalloc.start()
            try:
                return sum(map(len, export(kept, "html"))), tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    (small, low), (large, high) = peak(1100), peak(3300)
    assert large > 2 * small
    assert high < 1.3 * low
