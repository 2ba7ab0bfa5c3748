"""A run as one file: the same page and script as the server's, with the run's data within.

The file opens without a server and without a network. Its policy names the digest of its one script and of its one
style; nothing else in it is run or fetched, whatever the data hold. The data are gzip'd JSON in base64, in blocks that
a browser neither runs nor reads by itself:

* ``data-batches``: a list of batches, in the order of the document;
* ``data-calls="K"``: the details of the calls whose number divided by 100 is K, as a list;
* ``data-canvas="QUESTION/SAMPLE/PATH"``: a recorded denoising.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from llmprog.pictures.text import escaped
from llmprog.runs.run import Run
from llmprog.templates import format_value
from llmprog.viewer import bundle
from llmprog.viewer.details import all_canvases, call_details
from llmprog.viewer.encoding import encode
from llmprog.viewer.feed import RunFeed

CALLS_PER_BLOCK = 100

_BATCHES_AT_ONCE = 2
_BLOCK_CHARACTERS = 1 << 20  # of JSON in a block of batches: large ones are packed better, small ones drawn sooner
_STYLE = '<link rel="stylesheet" href="style.css">'
_SCRIPT = '<script src="page.js" defer></script>'
_CHARSET = '<meta charset="utf-8">'
_PLACES = re.compile(
    rf"(?P<charset>{re.escape(_CHARSET)})|(?P<title><title>.*?</title>)|(?P<style>{re.escape(_STYLE)})"
    rf"|(?P<script>{re.escape(_SCRIPT)})|(?P<noscript><noscript>.*?</noscript>)|(?P<end></body>)",
    re.DOTALL,
)


def html_pieces(run: Run) -> Iterator[str]:
    """The file, piece by piece; of the run, no more than a block is in memory at once.

    Args:
        run: The run; one that is under way is written as far as it has come.

    Raises:
        StoreError: The run cannot be read.
    """
    script, style = f"{bundle.script()};\n", bundle.style()
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    given = {
        "charset": f'{_CHARSET}\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        "title": f"<title>{escaped(run.info.program)}, run {escaped(run.id)}</title>",
        "style": f"<style>{style}</style>",
        "script": "",
        "noscript": f"<noscript>{_facts(run)}</noscript>",
    }
    page, done = bundle.html(), 0
    for place in _PLACES.finditer(page):
        yield page[done : place.start()]
        done = place.end()
        if place.lastgroup == "end":
            yield from _data(run)
            yield f"<script>{script}</script>\n{place[0]}"
        else:
            yield given[str(place.lastgroup)]
    yield page[done:]


def _data(run: Run) -> Iterator[str]:
    """The blocks of data."""
    calls: set[int] = set()
    paths: dict[str, None] = {}
    waiting: list[str] = []
    size = 0
    for batch in _batches(run):
        calls.update(call["id"] for call in batch.get("calls", ()))
        for canvas in batch.get("canvases", ()):
            paths[canvas["path"]] = None
        waiting.append(encode(batch))
        size += len(waiting[-1])
        if size >= _BLOCK_CHARACTERS:
            yield _block("batches", None, f"[{','.join(waiting)}]")
            waiting, size = [], 0
    yield _block("batches", None, f"[{','.join(waiting)}]")
    for key, numbers in groupby(sorted(calls), lambda number: number // CALLS_PER_BLOCK):
        yield _block("calls", str(key), encode([call_details(run, number) for number in numbers]))
    for path, canvas in all_canvases(run) if paths else ():
        if path in paths:
            yield _block("canvas", f"{canvas['question']}/{canvas['sample']}/{path}", encode(canvas))


def _batches(run: Run) -> Iterator[dict[str, Any]]:
    """What the feed gives until there is no more; then the end, also of a run that goes on."""
    feed = RunFeed(run)
    has_more = True
    while has_more:
        has_more = False
        for batch in feed.read(_BATCHES_AT_ONCE):
            yield batch
            if "end" in batch:
                return
            has_more = has_more or not batch.keys() <= {"begin", "run"}  # of a run under way these never cease
    yield {"end": True}


def _block(kind: str, key: str | None, text: str) -> str:
    packed = base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode()  # the same file each time
    value = "" if key is None else f'="{html.escape(key)}"'
    return f'<script type="application/gzip+base64" data-{kind}{value}>{packed}</script>\n'


def _facts(run: Run) -> str:
    """The run's main facts, for who reads the page without JavaScript."""
    lines = "".join(f"<tr><th>{name}</th><td>{escaped(value)}</td></tr>\n" for name, value in _main_facts(run))
    return (
        '<p class="notice">This page draws the run with JavaScript, which is switched off. Its main facts:</p>\n'
        f"<table>\n{lines}</table>"
    )


def _main_facts(run: Run) -> Iterable[tuple[str, str]]:
    usage = run.usage
    result: Mapping[str, Any] = run.result if isinstance(run.result, dict) else {}
    yield "run", run.id
    yield "program", run.info.program
    yield "input", format_value(run.info.input)
    yield "status", run.status
    for name in ("answer", "stopped", "shortfall", "explanation", "error"):
        if result.get(name) is not None:
            yield name, format_value(result[name])
    yield "backend", str(run.info.config.get("backend"))
    yield "seed", str(run.info.config.get("seed"))
    yield "began", datetime.fromtimestamp(run.created_at, UTC).isoformat(" ", "seconds")
    yield "took", f"{run.elapsed_s:.1f} s"
    tokens = f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens"
    cost = "unknown cost" if usage.usd is None else f"${usage.usd:.4f}"
    yield "spent", f"{usage.calls} calls, {tokens}, {cost}"


def _digest(text: str) -> str:
    """A text as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
