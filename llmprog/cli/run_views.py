"""How kept runs are shown: as tables and lines, and as JSON values."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmprog.exports.records import call_to_json, run_to_json
from llmprog.exports.thoughts import KeptThought, read_thoughts
from llmprog.json_values import without_secrets
from llmprog.templates import format_value
from llmprog.terminal import plain, table_lines
from llmprog.types import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmprog.runs.run import Run

_COLUMNS = ("run", "began", "program", "input", "status", "calls", "cost", "took")
_SPARE_COLUMNS = ("began", "took", "calls", "cost")  # left out in this order where there is no room; an id has a date
_SHORT = 60  # characters of an input or a text in a table
_MAX_VOTES = 8
_MAX_FAILURES = 12
_MAX_CALLS = 200
_MAX_THOUGHTS = 200
_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "unreadable": "red"}


def summary(run: Run) -> dict[str, Any]:
    """A run in short, as JSON values."""
    found: dict[str, Any] = {
        "run": run.id,
        "status": run.status,
        "problem": run.problem,
        "kind": run.info.kind,
        "program": run.info.program,
        "input": _input_of(run),
        "began_at": run.created_at or None,
        "elapsed_s": run.elapsed_s,
        "forked_from": run.forked_from,
        "usage": None,
    }
    if run.problem is None:
        with run:
            found["usage"] = asdict(run.usage)
    return without_secrets(found)  # type: ignore[no-any-return]  # an object stays one


def _input_of(run: Run) -> Any:
    command = _command(run)
    return command["data"] if run.info.kind == "map" and "data" in command else run.info.input


def _command(run: Run) -> Mapping[str, Any]:
    labels = run.info.config.get("labels")
    command = labels.get("command") if isinstance(labels, dict) else None
    return command if isinstance(command, dict) else {}


def print_list(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """Runs in short, one a line."""
    cells = [_cells(run) for run in runs]
    for line in table_lines(console.width, _COLUMNS, cells, spare=_SPARE_COLUMNS, cut=("program", "input")):
        console.print(line, soft_wrap=True)
    for run in runs:
        if run["problem"] is not None:
            console.print(Text(plain(run["problem"])), soft_wrap=True)


def _cells(run: Mapping[str, Any]) -> dict[str, Text]:
    usage = run["usage"]
    cells: dict[str, Text] = {
        "run": Text(plain(run["run"])),
        "status": Text(run["status"], style=_STYLES.get(run["status"], "yellow")),
    }
    if usage is None:
        return cells
    return cells | {
        "began": Text(when(run["began_at"])),
        "program": Text(plain(run["program"]) + (" (job)" if run["kind"] == "map" else "")),
        "input": Text(short(run["input"])),
        "calls": Text(str(usage["calls"])),
        "cost": Text(_money(usage["usd"])),
        "took": Text(took(run["elapsed_s"])),
    }


def print_run(console: Console, run: Run) -> None:
    """What a run was, how it ended, what it found and cost, and what went wrong."""
    style = _STYLES.get(run.status, "yellow")
    console.print(Text.assemble((f"{plain(run.id)}  ", "bold"), (run.status, style)))
    for name, value in _facts(run):
        console.print(Text.assemble((f"{name:<10}", "dim"), plain(value)), soft_wrap=True)
    result = run.result if isinstance(run.result, dict) else {}
    _print_votes(console, result.get("votes"))
    failures = run.failures()
    for failure in failures[:_MAX_FAILURES]:
        what = f"{failure.count} {failure.of}{'s' if failure.count != 1 else ''}"
        if failure.is_cancelled:
            console.print(Text(f"{what} cancelled: not needed any more, or interrupted", style="dim"))
        else:
            console.print(Text(f"{what} failed: {plain(failure.error)}", style="red"), soft_wrap=True)
    if failures[_MAX_FAILURES:]:
        console.print(f"… {sum(f.count for f in failures[_MAX_FAILURES:])} failures of other kinds", style="dim")


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    info, config, command = run.info, run.info.config, _command(run)
    yield "program", f"{info.program}  {info.program_hash[:12]}{'  (job)' if info.kind == 'map' else ''}"
    if command.get("settings"):
        yield "settings", ", ".join(map(str, command["settings"]))
    if info.kind == "map":
        for name in ("data", "out"):
            if name in command:
                yield name, str(command[name])
    given = info.input if info.kind == "map" and isinstance(info.input, dict) else {"input": format_value(info.input)}
    yield from ((name, str(value)) for name, value in given.items() if value is not None)
    yield "backend", str(config.get("backend"))
    yield "seed", str(config.get("seed"))
    yield "began", f"{when(run.created_at)}, took {took(run.elapsed_s)}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in info.versions.items())
    if run.forked_from is not None:
        yield "forked", f"from {run.forked_from}"
    if run.owner is not None:
        yield "owner", f"process {run.owner.get('pid')} on {run.owner.get('host')}: {run.owner.get('command')}"
    counts = run.counts()
    yield "calls", ", ".join(f"{number} {state}" for state, number in sorted(counts.calls.items())) or "none"
    if info.kind == "map":
        yield "rows", _rows(run, counts.rows)
    yield "spent", _spent(run)
    if command.get("budget"):
        # Only the command that began it is kept, and whoever resumes a run may give another budget.
        yield "budget", str(command["budget"]) + (" when it was begun" if run.num_sessions > 1 else "")
    yield from _outcome(run)


def _rows(run: Run, num_rows: int) -> str:
    failed = sum(result.get("error") is not None for _, _, result in run.rows())
    return f"{num_rows} done" + (f", {failed} of them failed" if failed else "")


def _spent(run: Run) -> str:
    usage = run.usage
    tokens = f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens"
    return f"{usage.calls} calls, {tokens}, {_money(usage.usd)}"


def _outcome(run: Run) -> Iterator[tuple[str, str]]:
    result = run.result
    if not isinstance(result, dict):
        if run.status == "interrupted":
            yield "", f"it did not end; `llmprog runs resume {run.id}` goes on with it"
        return
    if result.get("error"):
        yield "error", str(result["error"])
        result = result.get("partial") or {}
    if result.get("stopped"):
        yield "stopped", str(result["stopped"]) + (f": {result['shortfall']}" if result.get("shortfall") else "")
    if run.info.kind == "map":
        return
    if result.get("answer") is not None:
        yield "answer", str(result["answer"]) + ("" if result.get("solved") else "  (not solved: the best so far)")
    elif result.get("explanation"):
        yield "unsolved", str(result["explanation"])


def _print_votes(console: Console, votes: Any) -> None:
    histogram = votes.get("histogram") if isinstance(votes, dict) else None
    if not histogram:
        return
    most = max(entry["votes"] for entry in histogram) or 1
    for entry in histogram[:_MAX_VOTES]:
        bar = "█" * max(1, round(24 * entry["votes"] / most))
        console.print(Text(f"{entry['votes']:>5g} {bar} {plain(str(entry['answer']))}"))


def print_calls(console: Console, run: Run, path: str | None) -> None:
    """The calls of a run, one a line."""
    table = Table("call", "row", "node", "state", "samples", "tokens", "cost", "took", "text", box=None, pad_edge=False)
    for call in islice(run.calls(path), _MAX_CALLS):
        question = call.question
        count = question.num_samples if isinstance(question, Request) else 0
        samples = f"{call.first_sample}–{call.first_sample + count - 1}" if count > 1 else str(call.first_sample)
        text = (
            call.error or " | ".join(c.text for c in call.completions or ()) or ("likelihoods" if call.scores else "")
        )
        table.add_row(
            str(call.id),
            Text(plain(call.path)),
            Text(plain(call.node)),
            call.state if call.source in (None, "model") else f"{call.state} ({call.source})",
            samples,
            str(call.usage.completion_tokens),
            _money(call.usage.usd),
            "" if call.duration_s is None else took(call.duration_s),
            Text(short(text)),
        )
    console.print(table)
    left = sum(run.counts().calls.values()) - table.row_count
    if path is None and left > 0:
        console.print(f"… {left} more; `llmprog runs export {run.id} --as jsonl` has all", style="dim")


def print_thoughts(console: Console, run: Run, path: str) -> None:
    """The thoughts of a search as an indented tree."""
    thoughts = read_thoughts(run, path)
    for depth, thought in islice(thoughts.tree(), _MAX_THOUGHTS):
        console.print(Text("  " * depth).append(_label(thought)), soft_wrap=True)
    if len(thoughts) > _MAX_THOUGHTS:
        console.print(f"… {len(thoughts) - _MAX_THOUGHTS} more; `llmprog runs export` has all", style="dim")
    within = sum(other.startswith(f"{path}/") for other in run.paths())
    if within:
        console.print(f"… and the searches of {within} programs within; `llmprog runs export` has them", style="dim")


def _label(thought: KeptThought) -> Text:
    label = Text(plain(thought.state), style="bold green" if thought.is_goal else "" if thought.is_valid else "red")
    if thought.score:
        label.append(f"  {thought.score:.4g}", style="cyan")
    if thought.is_goal:
        label.append("  ★")
    reason = next((j.reason for j in thought.judgements if not j.valid and j.reason), "")
    if reason:
        label.append(f"  ✗ {plain(reason)}", style="red")
    if thought.pruned_because is not None:
        label.stylize("dim")
        label.append(f"  ✂ {plain(thought.pruned_because)}", style="dim")
    return label


def details(run: Run, *, path: str | None, calls: bool, thoughts: bool) -> dict[str, Any]:
    """All that is known of a run, as JSON values; its calls and thoughts where they are wanted."""
    counts = run.counts()
    found: dict[str, Any] = run_to_json(run) | {
        "program_text": run.info.program_text,
        "owner": None if run.owner is None else dict(run.owner),
        "updated_at": run.updated_at,
        "calls": dict(counts.calls),
        "rows": counts.rows,
        "failures": [asdict(failure) for failure in run.failures()],
    }
    del found["type"]
    if calls:
        found["call_list"] = [call_to_json(call) for call in run.calls(path)]
    if thoughts:
        found["thoughts"] = [thought.to_json() for thought in read_thoughts(run, path or "").by_id.values()]
    return without_secrets(found)  # type: ignore[no-any-return]  # an object stays one


def print_doomed(console: Console, runs: Sequence[Run], sizes: Mapping[str, int | None], num_cached: int) -> None:
    """What is about to be deleted."""
    table = Table("run", "began", "program", "status", "MB", box=None, pad_edge=False)
    for run in runs:
        size = sizes[run.id]
        table.add_row(
            Text(plain(run.id), no_wrap=True),
            when(run.created_at or None),
            Text(plain(run.info.program)),
            run.status,
            "?" if size is None else f"{size / 1e6:.1f}",
        )
    if runs:
        console.print(table)
    total = sum(size or 0 for size in sizes.values()) + num_cached
    cache = f" and the cache ({num_cached / 1e6:.1f} MB)" if num_cached else ""
    console.print(f"{len(runs)} runs{cache}: {total / 1e6:.1f} MB")


def short(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = plain(format_value(value))
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def when(moment: float | None) -> str:
    """A time of day of the user's own zone."""
    if moment is None:
        return ""
    try:
        return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a file from elsewhere may say anything
        return "?"


def took(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} days"


def _money(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:.4f}"
