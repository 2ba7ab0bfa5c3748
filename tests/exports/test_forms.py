"""Records, tables and pages of a run: whole, in order, and harmless wherever they are opened.

Pages have tests of their own, in a browser: ``tests/viewer``.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import sqlite3
from contextlib import closing

import pytest

from llmprog import Program, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, OptionError, StoreError
from llmprog.exports.formats import export, write_export
from llmprog.exports.thoughts import read_thoughts
from llmprog.jobs.job import map as map_rows
from llmprog.redaction import register_secret
from llmprog.runs.store import DirectoryStore, MemoryStore
from llmprog.search import BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Usage

DATA = r'<script type="application/gzip\+base64" [^>]*>([^<]*)<'  # the blocks of data in a page


@generator(prompt="after {state}", n=2)
def grow(state: str, completion: str) -> list[str]:
    return [state + completion]


@checker
def short(state: str) -> bool:
    return len(state) < 3


def tree():
    return Program(name="tree", generators=[grow], checkers=[short], controller=BreadthFirstSearch(max_depth=2))


def letters(prompt, sample):
    return Completion(text="ab"[sample], usage=Usage(1, 3, 1, 0.25))


@pytest.fixture
def store():
    return MemoryStore()


def kept(store, script=letters, program=None, given="r"):
    result = run(program or tree(), given, backend=ScriptedBackend(script), seed=1, store=store)
    return store.open(result.run_id)


def text_of(opened, form):
    return b"".join(export(opened, form)).decode()


# ------------------------------------------------------------------------------------------------ thoughts


def test_the_thoughts_that_are_read_back_are_those_of_the_graph(store):
    result = run(tree(), "r", backend=ScriptedBackend(letters), seed=1, store=store)
    thoughts = read_thoughts(store.open(result.run_id))
    graph = result.graph
    assert [t.state for t in thoughts.by_id.values()] == list(graph.states)
    assert [t.parents for t in thoughts.by_id.values()] == [graph.parents_of(i) for i in range(len(graph))]
    assert [t.is_valid for t in thoughts.by_id.values()] == [graph.is_usable(i) for i in range(len(graph))]
    assert thoughts.stopped == result.stopped
    assert thoughts.best == result.thought.id
    assert [(depth, t.state) for depth, t in thoughts.tree()][:3] == [(0, "r"), (1, "ra"), (2, "raa")]


def test_a_sample_that_led_to_a_known_thought_is_found_with_it(store):
    opened = kept(store, lambda prompt, sample: "a")
    thoughts = read_thoughts(opened)
    first = thoughts.by_id[1]
    assert thoughts.by_sample[first.call, 0] == thoughts.by_sample[first.call, 1] == [1]


def test_a_resumed_run_has_each_thought_once(store):
    class Failing(ScriptedBackend):
        async def generate(self, request):
            if len(self.requests) == 2:
                raise BackendError("down", backend=self.id)
            return await super().generate(request)

    with pytest.raises(BackendError) as failed:
        run(tree(), "r", backend=Failing(letters), seed=1, store=store)
    run_id = failed.value.partial.run_id
    result = run(tree(), "r", backend=ScriptedBackend(letters), store=store, resume=run_id)
    assert [t.state for t in read_thoughts(store.open(run_id)).by_id.values()] == list(result.graph.states)


# ------------------------------------------------------------------------------------------------ jsonl


def test_records_hold_the_run_every_call_and_every_thought(store):
    records = [json.loads(line) for line in text_of(kept(store), "jsonl").splitlines()]
    kinds = [record["type"] for record in records]
    assert kinds == ["run", *["call"] * 3, *["thought"] * 7]
    call = records[1]
    assert call["question"]["messages"] == [{"role": "user", "content": "after r"}]
    assert [c["text"] for c in call["completions"]] == ["a", "b"]
    assert call["usage"]["usd"] == 0.5
    assert (call["state"], call["first_sample"], call["num_samples"], call["attempts"]) == ("settled", 0, 2, 0)
    assert {record["call"] for record in records if record["type"] == "thought"} - {None} == {
        record["call"] for record in records if record["type"] == "call"
    }


def test_records_of_a_job_hold_its_rows_in_order(store):
    program = Program(generators=[grow.with_options(n=1)], controller=SelfConsistency(num_samples=2))
    rows = [{"q": str(i)} for i in range(12)]
    map_rows(program, rows, backend=ScriptedBackend(lambda p, i: "x"), seed=1, store=store, concurrency=5)
    (listed,) = store.list()
    records = [json.loads(line) for line in text_of(store.open(listed.id), "jsonl").splitlines()]
    assert [record["path"] for record in records if record["type"] == "row"] == [str(i) for i in range(12)]
    thoughts = [record["path"] for record in records if record["type"] == "thought"]
    assert list(dict.fromkeys(thoughts)) == [str(i) for i in range(12)]


def test_the_same_run_is_exported_the_same_again(store):
    opened = kept(store)
    for form in ("jsonl", "csv", "html"):
        assert text_of(opened, form) == text_of(opened, form)


def test_secrets_that_became_known_later_are_in_no_export(store):
    opened = kept(store, lambda prompt, sample: "key-of-the-day-77", given="key-of-the-day-77")
    register_secret("key-of-the-day-77")
    for form in ("jsonl", "csv", "html"):
        found = text_of(opened, form)
        if form == "html":
            found += "".join(gzip.decompress(base64.b64decode(block)).decode() for block in re.findall(DATA, found))
        assert "key-of-the-day-77" not in found
        assert "[redacted]" in found


# ------------------------------------------------------------------------------------------------ csv


def table_of(opened):
    return list(csv.DictReader(io.StringIO(text_of(opened, "csv"))))


def test_the_table_has_a_line_for_each_call(store):
    table = table_of(kept(store))
    assert [line["answers"] for line in table] == ["a\n---\nb"] * 3
    assert [line["question"] for line in table] == ["after r", "after ra", "after rb"]
    assert (table[0]["calls"], table[0]["usd"], table[0]["state"]) == ("2", "0.5", "settled")


@pytest.mark.fault("Hostile", "spreadsheet formulas in a completion", "exported as text")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "＝"])
def test_a_text_that_looks_like_a_formula_is_exported_as_text(store, start):
    formula = f'{start}HYPERLINK("http://x","y")'
    table = table_of(kept(store, lambda prompt, sample: formula if not sample else "b", given=""))
    assert all(line["answers"].startswith("'") for line in table)
    assert formula in table[0]["answers"]


# ------------------------------------------------------------------------------------------------ files


def test_a_file_appears_whole_or_not_at_all(store, tmp_path):
    opened = kept(store)
    path = tmp_path / "out.jsonl"
    path.write_text("what was there")
    with pytest.raises(OptionError, match="nothing says which of its results are right"):
        write_export(opened, "sft", path)
    assert path.read_text() == "what was there"
    assert write_export(opened, "jsonl", path) == 11
    assert len(path.read_text().splitlines()) == 11
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OptionError, match="cannot be written"):
        write_export(opened, "jsonl", tmp_path / "no" / "such" / "folder")


@pytest.mark.fault("Hostile", "a run file with made-up contents", "refused in one line")
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("thoughts", '[{"id": 1, "parents": [7], "node": "", "sample": 0, "call": null, "state": "", "goal": false}]'),
        ("thoughts", "[1]"),
        ("thoughts", '{"id": {}}'),
        ("verdicts", '[{"thought": 99, "checker": "c", "score": 1, "valid": true, "reason": ""}]'),
        ("verdicts", '[{"thought": 1, "checker": "c", "score": "much", "valid": true, "reason": ""}]'),
        ("finished", "[]"),
        ("began", "[]"),
    ],
)
def test_a_file_from_elsewhere_may_hold_anything(tmp_path, kind, data):
    store = DirectoryStore(tmp_path)
    run_id = kept(store).id
    with closing(sqlite3.connect(tmp_path / f"{run_id}.sqlite")) as file:
        file.execute("UPDATE event SET data = ? WHERE kind = ?", (data.encode(), kind))
        file.commit()
    for form in ("jsonl", "html", "grpo"):
        with store.open(run_id) as opened, pytest.raises((StoreError, OptionError)):
            list(export(opened, form))
