"""Notebooks in a real kernel: programs, results, graphs and votes show themselves, and a run is followed live."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from llmprog.errors import LLMProgError, OptionError
from llmprog.notebook import LiveView

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs/notebook.ipynb"

SEVERAL_RUNS = [
    """
import asyncio

from llmprog import Program, generator
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.errors import BackendError, OptionError
from llmprog.notebook import LiveView
from llmprog.search import BeamSearch, SelfConsistency

HOSTILE = "<script>alert(1)</script>\\x1b[2J\\u202e</svg><img src=x onerror=alert(2)>"


def saying(name, n):
    @generator(prompt="{state}", name="say")
    def say(state: str, completion: str) -> list[str]:
        return [completion]

    return Program(name=name, generators=[say], controller=SelfConsistency(num_samples=n))


def reply(text, sample):
    return HOSTILE if sample % 3 else "fine"
""",
    "first = saying('first', 4).run('q', backend=ScriptedBackend(reply), seed=1, on_event=LiveView())",
    "saying('second', 4).run('q', backend=ScriptedBackend(reply), seed=1, stream=True, on_event=LiveView())",
    """
joined = await Sequence(saying("one", 2), saying("two", 2), name="both").arun(
    "q", backend=ScriptedBackend(reply), seed=1, on_event=LiveView(interval_s=0.001)
)
joined
""",
    "joined.graph",
    "Program(name='<b>bad</b>', generators=[], controller=BeamSearch(beam_width=2, max_depth=2))",
    "view = LiveView()",
    """
def no_more(text, sample):
    if "xx" in text:
        raise RuntimeError("no more")
    return "x"


@generator(prompt="{state}", name="step")
def step(state: str, completion: str) -> list[str]:
    return [state + completion]


failing = Program(name="failing", generators=[step], controller=BeamSearch(beam_width=1, max_depth=9))
try:
    failing.run("q", backend=ScriptedBackend(no_more), seed=1, on_event=LiveView())
except BackendError:
    await asyncio.sleep(4)  # the view is told after the cell
""",
    "asked = saying('asked', 4).run('q', backend=ScriptedBackend(reply), seed=1, progress=True)",
    "asked = await saying('asked', 4).arun('q', backend=ScriptedBackend(reply), seed=1, progress=True)",
    """
import llmprog

rows = ["one", "two", "three"]
jobs = llmprog.map(saying("many", 4), rows, backend=ScriptedBackend(reply), seed=1, progress=True)
""",
    """
async for row in llmprog.amap(saying("<b>many</b>", 4), rows, backend=ScriptedBackend(reply), progress=True):
    await asyncio.sleep(1.5)
""",
    """
def failing_third(text, sample):
    if sample == 2:
        raise ValueError("no third")
    return "fine"


options = {"backend": ScriptedBackend(failing_third), "seed": 1, "max_in_flight": 1, "progress": True}
try:
    await saying("caught", 3).arun("q", **options)
except BackendError:
    pass
""",
    """
try:
    saying("caught", 3).run("q", **options)
except BackendError:
    pass
""",
    """
try:
    await saying("refused", 3).arun("q", budget="calls=0", **options)
except OptionError:
    pass
""",
]


class Watched(NotebookClient):
    """Keeps what was said about each cell, in order."""

    def process_message(self, msg, cell, cell_index):
        self.said.append((cell_index, msg["msg_type"], msg["content"]))
        return super().process_message(msg, cell, cell_index)


def executed(notebook, folder):
    client = Watched(notebook, kernel_name="python3", timeout=110, resources={"metadata": {"path": str(folder)}})
    client.said = []
    manager = client.create_kernel_manager()
    manager.transport, manager.ip = "ipc", str(folder / "k")  # sockets in files: nothing listens on the network
    client.execute()
    return client


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return executed(nbformat.read(EXAMPLE, as_version=4), tmp_path_factory.mktemp("n"))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in SEVERAL_RUNS]
    return executed(nbformat.v4.new_notebook(cells=cells), tmp_path_factory.mktemp("n"))


def outputs(client, kind=None):
    """The outputs of each cell of code."""
    return [
        [output for output in cell.outputs if kind in (None, output.output_type)]
        for cell in client.nb.cells
        if cell.cell_type == "code"
    ]


def html_of(found):
    return "".join(output.data["text/html"] for output in found)


def pictures(html):
    """The pictures in a piece of HTML, parsed."""
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314 - our own


def updates(client, cell):
    return [content for index, kind, content in client.said if (index, kind) == (cell, "update_display_data")]


def test_the_example_is_kept_without_outputs():
    notebook = json.loads(EXAMPLE.read_text())
    assert [cell.get("outputs", []) for cell in notebook["cells"]] == [[] for _ in notebook["cells"]]


def test_what_the_page_shows_is_what_the_example_runs():
    cells = {"".join(cell["source"]) for cell in json.loads(EXAMPLE.read_text())["cells"]}
    shown = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs/notebooks.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 3
    assert {snippet.strip() for snippet in shown} <= cells


def test_nothing_goes_wrong_in_the_example(example):
    assert [o for cell in outputs(example) for o in cell if o.output_type in ("stream", "error")] == []


def test_a_program_shows_its_graph(example):
    html = html_of(outputs(example)[0])
    (picture,) = pictures(html)
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"propose", "legal", "promising", "BeamSearch", "goal", "answer"} <= set(texts)
    assert "max_depth" in html


def test_a_run_is_followed_and_its_outcome_stays(example):
    live = outputs(example, "display_data")[1]
    assert len(live) == 1
    assert "ended: goal; 68 thoughts" in html_of(live)
    seen = updates(example, 3)
    assert len(seen) > 1
    under_way = [content["data"]["text/html"] for content in seen[:-1]]
    assert any("open thought" in html for html in under_way), "the frontier"
    assert any("<pre" in html for html in under_way), "what is being written"
    assert any("best so far" in html for html in under_way)


def test_a_result_shows_its_answer_and_what_it_cost(example):
    html = html_of(outputs(example)[2])
    assert "(13 - 9) * (10 - 4)" in html
    assert "220 calls" in html
    assert "<details" in html
    assert len(pictures(html)) == 1


def test_a_graph_is_a_picture_with_its_path(example):
    (output,) = outputs(example)[3]
    document = ET.fromstring(output.data["image/svg+xml"])  # noqa: S314 - our own
    assert document.get("aria-label") == (
        "60 of 68 thoughts: the path and the best; green: the path to the answer; "
        "dashed: other ways in which a thought was reached"
    )
    texts = [element.text for element in document.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("goal") == 1
    assert sum("refused" in text for text in texts) > 10


def test_a_vote_is_followed_in_the_notebooks_own_loop(example):
    assert len(outputs(example, "display_data")[4]) == 1
    html = html_of(outputs(example, "display_data")[4])
    assert "ended: num_samples" in html
    (bars,) = pictures(html_of(outputs(example, "execute_result")[4]))
    assert bars.get("aria-label").startswith("12 of 12 samples drawn, ")


def test_pictures_are_files_too(example):
    folder = Path(example.resources["metadata"]["path"])
    for name in ("thoughts.svg", "program.svg"):
        assert ET.parse(folder / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own


def test_each_run_is_shown_below_its_own_cell(several):
    for cell in (1, 2, 3):
        assert len(outputs(several, "display_data")[cell]) == 1, cell
        assert "ended: num_samples" in html_of(outputs(several, "display_data")[cell])
        assert len(updates(several, cell)) >= 1, cell


def test_a_joined_program_shows_its_parts(several):
    html = html_of(outputs(several, "execute_result")[3])
    assert "part one" in html
    assert "part two" in html
    assert "2 searches, 0 under way" in html_of(outputs(several, "display_data")[3])


def test_hostile_text_is_shown_and_not_obeyed(several):
    everything = "".join(html_of(cell) for cell in outputs(several))
    for content in (c for index in range(len(SEVERAL_RUNS)) for c in updates(several, index)):
        everything += content["data"]["text/html"]
    assert "&lt;script&gt;" in everything
    assert r"\x1b[2J\u202e" in everything
    assert not re.search(r"<script|<img|\sonerror=(?!alert\(2\)&gt;)", everything)
    assert "\x1b" not in everything
    assert "\u202e" not in everything


def test_a_program_that_does_not_compile_shows_its_faults(several):
    html = html_of(outputs(several)[5])
    assert "&lt;b&gt;bad&lt;/b&gt; does not compile" in html
    assert "no generator" in html


def test_a_view_that_is_told_nothing_shows_nothing(several):
    assert outputs(several, "display_data")[6] == []


def test_a_view_says_that_its_run_was_cut_short(several):
    (live,) = outputs(several, "display_data")[7]
    assert "ended early" in live.data["text/html"]
    assert "3 thoughts" in live.data["text/html"]


def test_a_run_that_is_to_show_its_progress_does_so_below_its_cell(several):
    for cell in (8, 9):
        (live,) = outputs(several, "display_data")[cell]
        assert "ended: num_samples" in live.data["text/html"]
        assert outputs(several, "stream")[cell] == []


def test_a_job_that_is_to_show_its_progress_does_so_below_its_cell(several):
    for cell in (10, 11):
        (live,) = outputs(several, "display_data")[cell]
        assert "3 of 3 rows, " in live.data["text/html"]
        assert "width:100.0%" in live.data["text/html"]
        assert "0 of 3 votes decided early, 4 of 4 samples each" in live.data["text/html"]
        assert "many" in live.data["text/plain"].partition(": 3 of 3 rows, ")[0]
        assert outputs(several, "stream")[cell] == []
    assert "&lt;b&gt;many&lt;/b&gt;" in html_of(outputs(several, "display_data")[11])
    under_way = [content["data"]["text/html"] for content in updates(several, 11)]
    assert any("1 of 3 rows" in html for html in under_way)


def test_a_run_that_an_error_ended_says_so_also_where_the_cell_goes_on(several):
    for cell in (12, 13):
        (live,) = outputs(several, "display_data")[cell]
        assert "ended early" in live.data["text/html"]
        assert "searching" not in live.data["text/html"]
        assert "2 of 3 samples drawn, 87.5% sure" in live.data["text/html"]
        assert outputs(several, "stream")[cell] == []


def test_a_run_that_is_refused_is_told_by_its_error_alone(several):
    assert outputs(several)[14] == []


def test_a_view_needs_a_notebook():
    with pytest.raises(LLMProgError, match="draws in a notebook"):
        LiveView()


@pytest.mark.parametrize("interval_s", [0, -1, float("nan"), "1"])
def test_the_interval_is_a_time(interval_s):
    with pytest.raises(OptionError, match="interval_s="):
        LiveView(interval_s=interval_s)
