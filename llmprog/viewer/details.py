"""What a page asks for only when somebody looks at it: a call with its prompt and answers, a recorded canvas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from llmprog.errors import StoreError
from llmprog.json_values import prompt_to_json, request_to_json
from llmprog.runs.encoding import decode
from llmprog.runs.run import CallRecord, Run
from llmprog.types import Completion, Logprobs, Request
from llmprog.viewer.canvases import full_steps


def call_details(run: Run, number: int) -> dict[str, Any]:
    """A call: what was asked, with which parameters, and what was answered, token by token where that is known.

    Raises:
        StoreError: The run has no such call, or it cannot be read.
    """
    return _describe(run.call(number)) | {"attempts": _attempts(run, number)}


def _describe(call: CallRecord) -> dict[str, Any]:
    question = call.question
    if isinstance(question, Request):
        asked = request_to_json(question)
        asked = {"prompt": asked["messages"], **{k: asked[k] for k in ("prefix", "parts", "params") if k in asked}}
    else:
        asked = prompt_to_json(question.prompt)
        asked = {"prompt": asked["messages"], "prefix": asked["prefix"], "continuations": list(question.continuations)}
    completions = call.completions
    return {
        "id": call.id,
        "path": call.path,
        "node": call.node,
        "backend": call.backend,
        "state": call.state,
        "source": call.source,
        "question": asked,
        "completions": None
        if completions is None
        else [_completion(completion, call.first_sample + i) for i, completion in enumerate(completions)],
        "scores": None if call.scores is None else [{"tokens": _tokens(score)} for score in call.scores],
        "usage": asdict(call.usage),
        "duration_s": call.duration_s,
        "error": call.error,
    }


def canvas_details(run: Run, path: str, question: int, sample: int) -> dict[str, Any]:
    """How a canvas was written, step by step; the last time, where it was written more than once.

    Args:
        run: The run.
        path: Of the search.
        question: Number of what was asked.
        sample: Which sample of it.

    Raises:
        StoreError: None was recorded, or it cannot be read.
    """
    found = (
        run.reader().execute("SELECT digest FROM question WHERE run = ? AND id = ?", (run.number, question)).fetchone()
    )
    digest = None if found is None else bytes(found[0]).hex()
    for _, canvas in _canvases(run, path):
        if (canvas.get("call"), canvas.get("sample")) == (digest, sample):
            return {"question": question, "sample": sample, "steps": full_steps(canvas)}
    raise StoreError(f"run {run.id}: no canvas of question {question}, sample {sample} was recorded in {path!r}")


def all_canvases(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths of all canvases of a run, and what ``canvas_details`` gives for each."""
    questions = run.reader().execute("SELECT id, digest FROM question WHERE run = ?", (run.number,)).fetchall()
    numbers = {bytes(digest).hex(): number for number, digest in questions}
    told: set[tuple[str, Any, Any]] = set()
    for path, canvas in _canvases(run):
        question, sample = numbers.get(str(canvas.get("call"))), canvas.get("sample")
        if (path, question, sample) not in told:
            told.add((path, question, sample))
            yield path, {"question": question, "sample": sample, "steps": full_steps(canvas)}


def _canvases(run: Run, path: str | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The recorded canvases with their paths, the last first; one at a time is in memory."""
    reader = run.reader()
    where, given = ("", ()) if path is None else (" AND path = ?", (path,))
    sql = f"SELECT seq FROM event WHERE run = ? AND kind = 'canvas'{where} ORDER BY seq DESC"  # noqa: S608 - constants only
    for (seq,) in reader.execute(sql, (run.number, *given)).fetchall():
        of, data = reader.execute(
            "SELECT path, data FROM event WHERE run = ? AND seq = ?", (run.number, seq)
        ).fetchone()
        canvas = decode(bytes(data))
        if not isinstance(canvas, dict):
            raise StoreError(f"run {run.id}: event {seq} cannot be read: a canvas that is no object")
        yield of, canvas


def _completion(completion: Completion, sample: int) -> dict[str, Any]:
    return {
        "sample": sample,
        "text": completion.text,
        "reasoning": completion.reasoning,
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "violation": completion.violation,
        "usage": asdict(completion.usage),
        "tokens": None if completion.logprobs is None else _tokens(completion.logprobs),
    }


def _tokens(logprobs: Logprobs) -> list[list[Any]]:
    return [[token, logprob] for token, logprob in zip(logprobs.tokens, logprobs.logprobs, strict=False)]


def _attempts(run: Run, call: int) -> list[dict[str, Any]]:
    rows = run.reader().execute(
        "SELECT at, duration_s, status, error, is_billed FROM attempt WHERE run = ? AND call = ? ORDER BY id",
        (run.number, call),
    )
    return [
        {
            "at": None if at is None else at - run.created_at,
            "duration_s": duration_s,
            "status": status,
            "error": error,
            "is_billed": bool(is_billed),
        }
        for at, duration_s, status, error, is_billed in rows.fetchall()
    ]
