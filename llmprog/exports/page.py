"""A run as one HTML page: no scripts, nothing from elsewhere, every text escaped."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from llmprog.exports.records import answers_of, prompt_of
from llmprog.exports.thoughts import KeptThought, read_thoughts
from llmprog.redaction import redact
from llmprog.runs.run import CallRecord, Run
from llmprog.templates import format_value

_MAX_CALLS = 2000
_MAX_ROWS = 2000
_MAX_TREES = 20
_MAX_THOUGHTS = 1000  # of one tree
_MAX_DEPTH = 60  # deeper ones are drawn at this depth: browsers end nested lists somewhere

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .2em .6em }
tr:nth-child(even) { background: #f6f6f6 } th { color: #666; font-weight: 600 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3em 0; max-height: 30em; overflow: auto }
ul { list-style: none; padding-left: 1.2em; border-left: 1px solid #ddd } li { margin: .15em 0 }
.goal { color: #0a6b2d; font-weight: 600 } .invalid, .failed { color: #a11 } .note { color: #777 }
.bar { display: inline-block; height: .8em; background: #4a7dbd; margin-right: .5em }
"""


def html_pieces(run: Run) -> Iterator[str]:
    """The page, piece by piece: what the run was, the vote, rows, calls and thoughts; what is left out is counted."""
    title = f"{run.info.program}, run {run.id}"
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style></head><body>\n<h1>{_text(title)}</h1>\n"
    )
    yield from _table(("", ""), ((name, _text(value)) for name, value in _facts(run)))
    result = run.result if isinstance(run.result, dict) else {}
    yield from _votes(result.get("votes"))
    failures = [failure for failure in run.failures() if not failure.is_cancelled]
    if failures:
        yield "<h2>What went wrong</h2>\n"
        yield from _table(
            ("times", "what", "error"),
            ((str(f.count), f.of, f'<span class="failed">{_text(f.error)}</span>') for f in failures),
        )
    if run.info.kind == "map":
        yield from _rows(run)
    yield from _calls(run)
    yield from _trees(run)
    yield "</body></html>\n"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    info, usage, result = run.info, run.usage, run.result if isinstance(run.result, dict) else {}
    yield "status", run.status
    for name in ("answer", "stopped", "shortfall", "explanation", "error"):
        if result.get(name) is not None:
            yield name, str(result[name])
    yield "input", format_value(info.input)
    yield "backend", str(info.config.get("backend"))
    yield "seed", str(info.config.get("seed"))
    yield "began", datetime.fromtimestamp(run.created_at, UTC).isoformat(" ", "seconds")
    yield "took", f"{run.elapsed_s:.1f} s"
    tokens = f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens"
    yield "spent", f"{usage.calls} calls, {tokens}, {'unknown cost' if usage.usd is None else f'${usage.usd:.4f}'}"
    if run.forked_from is not None:
        yield "forked from", run.forked_from
    yield "versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())


def _votes(votes: Any) -> Iterator[str]:
    if not isinstance(votes, dict) or not votes.get("histogram"):
        return
    yield "<h2>Votes</h2>\n"
    entries = [(float(entry["votes"]), entry["answer"]) for entry in votes["histogram"]]
    most = max(count for count, _ in entries) or 1.0
    bars = (
        (f"{count:g}", f'<span class="bar" style="width:{20 * count / most:.2f}em"></span>{_text(answer)}')
        for count, answer in entries
    )
    yield from _table(("votes", "answer"), bars)


def _rows(run: Run) -> Iterator[str]:
    yield "<h2>Rows</h2>\n"
    shown = (
        (
            str(number),
            _text(result.get("answer")),
            _text({True: "yes", False: "no"}.get(result.get("correct", ""))),
            _text(result.get("stopped")),
            f'<span class="failed">{_text((result.get("error") or {}).get("message", ""))}</span>',
        )
        for number, _, result in islice(run.rows(), _MAX_ROWS)
    )
    yield from _table(("row", "answer", "correct", "stopped", "error"), shown)
    yield _left_out(run.counts().rows - _MAX_ROWS, "rows")


def _calls(run: Run) -> Iterator[str]:
    yield "<h2>Calls</h2>\n"
    header = ("call", "row", "node", "state", "tokens", "seconds", "question and answers")
    yield from _table(header, map(_call, islice(run.calls(), _MAX_CALLS)))
    yield _left_out(sum(run.counts().calls.values()) - _MAX_CALLS, "calls")


def _call(call: CallRecord) -> tuple[str, ...]:
    answers = answers_of(call)
    first = call.error or (answers[0] if answers else "")
    inside = f"<pre>{_text(prompt_of(call).text)}</pre>" + "".join(
        f"<hr><pre>{_text(answer)}</pre>" for answer in answers
    )
    style = "" if call.error is None else ' class="failed"'
    return (
        str(call.id),
        _text(call.path),
        _text(call.node),
        call.state if call.source in (None, "model") else f"{call.state} ({call.source})",
        str(call.usage.completion_tokens),
        "" if call.duration_s is None else f"{call.duration_s:.2f}",
        f"<details><summary{style}>{_text(first[:120])}</summary>{inside}</details>",
    )


def _trees(run: Run) -> Iterator[str]:
    yield "<h2>Thoughts</h2>\n"
    paths = run.paths()
    for path in paths[:_MAX_TREES]:
        if path:
            yield f"<h3>{_text(path)}</h3>\n"
        thoughts = read_thoughts(run, path)
        open_lists = 0
        for deep, thought in islice(thoughts.tree(), _MAX_THOUGHTS):
            depth = min(deep, _MAX_DEPTH) + 1
            yield "<ul>" * max(0, depth - open_lists) + "</ul>" * max(0, open_lists - depth)
            open_lists = depth
            yield f"<li>{_thought(thought)}</li>\n"
        yield "</ul>" * open_lists + _left_out(len(thoughts) - _MAX_THOUGHTS, "thoughts")
    yield _left_out(len(paths) - _MAX_TREES, "searches")


def _thought(thought: KeptThought) -> str:
    style = "goal" if thought.is_goal else "" if thought.is_valid else "invalid"
    notes = [f"{thought.score:.4g}"] if thought.score else []
    notes += ["★"] if thought.is_goal else []
    notes += [f"✗ {j.checker}: {j.reason}" for j in thought.judgements if not j.valid]
    note = f' <span class="note">{_text("  ".join(notes))}</span>' if notes else ""
    return f'<span class="{style}">{_text(thought.state)}</span>{note}'


def _table(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table; the cells of ``lines`` are HTML."""
    yield "<table>"
    if any(header):
        yield "<tr>" + "".join(f"<th>{_text(name)}</th>" for name in header) + "</tr>\n"
    for line in lines:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>\n"
    yield "</table>\n"


def _left_out(count: int, what: str) -> str:
    return f'<p class="note">… {count} more {what}; an export as jsonl has all of them.</p>\n' if count > 0 else ""


def _text(value: Any) -> str:
    """A value as text that shows itself and does nothing else."""
    text = redact("" if value is None else format_value(value))
    shown = "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return html.escape(shown)
