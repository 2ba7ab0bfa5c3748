"""A run as records: what it was, its calls, its rows and its thoughts, as JSON values one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from llmprog.exports.thoughts import read_thoughts
from llmprog.json_values import completion_to_json, logprobs_to_json, prompt_to_json, request_to_json, without_secrets
from llmprog.runs.run import CallRecord, Run
from llmprog.types import Prompt, Request, Template


def records_of(run: Run) -> Iterator[dict[str, Any]]:
    """All of a run: a record of type ``run``, then its calls, the rows of a job, and its thoughts."""
    yield run_to_json(run)
    for call in run.calls():
        yield call_to_json(call)
    for number, _, result in run.rows():
        yield without_secrets({"type": "row", "path": str(number)} | result)
    for path in run.paths():
        for thought in read_thoughts(run, path).by_id.values():
            yield without_secrets({"type": "thought", "path": path} | thought.to_json())


def run_to_json(run: Run) -> dict[str, Any]:
    """What a run was, and what came of it."""
    info = run.info
    return _clean(
        {
            "type": "run",
            "run": run.id,
            "kind": info.kind,
            "status": run.status,
            "program": info.program,
            "program_hash": info.program_hash,
            "input": info.input,
            "config": dict(info.config),
            "versions": dict(info.versions),
            "began_at": run.created_at,
            "elapsed_s": run.elapsed_s,
            "forked_from": run.forked_from,
            "usage": asdict(run.usage),
            "result": run.result,
        }
    )


def call_to_json(call: CallRecord) -> dict[str, Any]:
    """A call, with what was asked and what was answered."""
    question = call.question
    if isinstance(question, Request):
        asked: dict[str, Any] = request_to_json(question)
        first, count = asked.pop("first_sample"), asked.pop("num_samples")
    else:
        asked = {**prompt_to_json(question.prompt), "continuations": list(question.continuations)}
        first = count = 0
    return {
        "type": "call",
        "id": call.id,
        "path": call.path,
        "node": call.node,
        "backend": call.backend,
        "state": call.state,
        "source": call.source,
        "question": without_secrets(asked),
        "call": question.digest(),
        "first_sample": first,
        "num_samples": count,
        "completions": None if call.completions is None else [completion_to_json(c) for c in call.completions],
        "scores": None if call.scores is None else [logprobs_to_json(s) for s in call.scores],
        "usage": asdict(call.usage),
        "bound": asdict(call.bound),
        "sent_at": call.sent_at,
        "duration_s": call.duration_s,
        "error": without_secrets(call.error),
        "attempts": call.attempts,
    }


def prompt_of(call: CallRecord) -> Prompt:
    """What a call asked, without the blanks of a template."""
    asked = call.question.prompt
    return asked.prompt if isinstance(asked, Template) else asked


def answers_of(call: CallRecord) -> list[str]:
    """What was answered, as texts: completions, or continuations with their log-likelihoods."""
    question = call.question
    if isinstance(question, Request):
        return [completion.text for completion in call.completions or ()]
    scored = zip(question.continuations, call.scores or (), strict=False)  # not answered yet: nothing
    return [f"{text}: {score.total:g}" for text, score in scored]


def _clean(value: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", without_secrets(value))
