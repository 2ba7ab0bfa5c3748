"""A run as a stream of batches of records: all that it holds, then what is added while it goes on.

The live page and the file that is exported take the same batches. A batch is a JSON object; which keys it may have, and
what is in them, is said where they are made below. Times are seconds since the run began.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmprog.errors import StoreError
from llmprog.runs.run import EventRecord, Run
from llmprog.runs.tail import OutcomeRecord, RunTail, SentRecord

BATCH = 500
"""Records of a kind in one batch at most, so that a page shows something before it has all."""

MOST_SEARCHES = 500
MOST_THOUGHTS = 200_000
MOST_CALLS = 200_000

_SUMMARY_S = 1.0  # how often, at most, what a run has cost and what failed is summed up

_Record = tuple[str, dict[str, Any]]  # the key of a batch, and what is added there


@dataclass(slots=True, kw_only=True)
class _Search:
    """What has been read of a search.

    Attributes:
        is_shown: Whether it is among those that are shown.
        num_thoughts: Thoughts that have come.
        num_shown: Those of them that are shown.
        asked: What verdicts rest on: numbers of questions, by thought and checker.
    """

    is_shown: bool
    num_thoughts: int = 0
    num_shown: int = 0
    asked: dict[int, dict[str, list[int]]] = field(default_factory=dict)

    def known(self, thought: Any) -> int:
        """The number of a thought that came before: a page goes by them, so a made-up file is not to make up these."""
        number = int(thought)
        if not 0 <= number < self.num_thoughts:
            raise ValueError(f"it is about a thought {number} that came after it, or never")
        return number


class RunFeed:
    """The batches of one run.

    What a page could not hold is left out, and counted in ``run["left_out"]``: of a job the searches of all rows but
    the first ``MOST_SEARCHES``, and thoughts and calls beyond the numbers above.

    Args:
        run: The run; it stays the caller's to close. It may be under way.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tail = RunTail(run)
        self._questions: dict[str, int] = {}
        self._searches: dict[str, _Search] = {}
        self._waiting: list[EventRecord] = []
        self._left_out = {"searches": 0, "thoughts": 0, "calls": 0}
        self._num_searches = self._num_thoughts = self._num_calls = 0
        self._has_begun = self._is_current = self._has_ended = False
        self._told: dict[str, Any] = {}
        self._told_at = -math.inf

    def read(self, at_once: int = 20) -> list[dict[str, Any]]:
        """What is new, in a few batches; read again until there is nothing.

        The first batch of all has ``begin``. Of a run under way, the first that tells the last of what there was has
        ``is_current``. Once the run is over and all of it has been told, the last has ``end``, and nothing comes after
        it.

        Args:
            at_once: How many batches are taken together: few take less memory, many less time.

        Raises:
            StoreError: The run is not there any more, or what it holds cannot be read.
        """
        if self._has_ended:
            return []
        self._run.refresh()  # first: what was written before the run ended is read after its end is known
        is_live = self._run.status == "running"
        batches: list[dict[str, Any]] = []
        while len(batches) < at_once and (batch := self._next()):
            batches.append(batch)
        is_drained = len(batches) < at_once
        is_due = not self._has_begun or (is_drained and not is_live)
        if is_due or time.monotonic() - self._told_at >= _SUMMARY_S:
            summary = summary_of(self._run) | {"left_out": dict(self._left_out)}
            if summary != self._told:
                self._told = summary
                batches[:0] = [{"run": summary}]
            self._told_at = time.monotonic()
        if not self._has_begun:
            self._has_begun = True
            batches[0] = {"begin": True} | batches[0]
        if is_drained and not is_live:
            self._has_ended = True
            batches.append({"end": True})
        elif is_drained and not self._is_current:
            self._is_current = True
            batches.append({"is_current": True})
        return batches

    def _next(self) -> dict[str, Any]:
        # Events before questions: what an event refers to was written before it.
        events = self._new_events()
        while questions := self._tail.questions(20 * BATCH):
            self._questions.update((digest, number) for number, digest in questions)
        batch: dict[str, Any] = {}
        for event in events:
            for kind, record in self._of_event(event):
                batch.setdefault(kind, []).append(record)
        sent, outcomes = self._tail.calls(BATCH)
        outcomes += self._tail.outcomes()
        shown = sent[: max(0, MOST_CALLS - self._num_calls)]
        self._num_calls += len(shown)
        self._left_out["calls"] += len(sent) - len(shown)
        if shown:
            batch["calls"] = [self._call(call) for call in shown]
        if outcomes:
            batch["outcomes"] = [_outcome(outcome) for outcome in outcomes]
        if attempts := self._tail.attempts(BATCH):
            batch["attempts"] = [asdict(attempt) | {"at": self._since(attempt.at)} for attempt in attempts]
        if rows := self._tail.rows(BATCH):
            batch["rows"] = [_row(number, result) for number, result in rows]
        if not batch and (events or sent):  # all of them left out: there may be more
            batch["calls"] = []
        return batch

    def _new_events(self) -> list[EventRecord]:
        """What has happened, as far as one batch can tell it: a search that begins again begins with a batch."""
        events = self._waiting or list(self._tail.events(BATCH))
        paths: set[str] = set()
        end = len(events)
        for place, event in enumerate(events):
            if event.kind == "began" and event.path in paths:
                end = place
                break
            paths.add(event.path)
        self._waiting = events[end:]
        return events[:end]

    def _call(self, call: SentRecord) -> dict[str, Any]:
        return {
            "id": call.id,
            "path": call.path,
            "node": call.node,
            "backend": call.backend,
            "question": call.question,
            "first_sample": call.first_sample,
            "num_samples": call.num_samples,
            "session": call.session,
            "sent_at": self._since(call.sent_at),
        }

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round(moment - self._run.created_at, 6)

    def _of_event(self, event: EventRecord) -> Iterator[_Record]:
        """The records that an event becomes, each with the key of a batch that it belongs to."""
        path = event.path
        search = self._begun(path) if event.kind == "began" else self._searches.get(path)
        if search is None:  # one of which nothing was told that it began
            search = self._searches[path] = _Search(is_shown=True)
        if not search.is_shown:
            return
        try:
            for kind, record in self._read_event(event.kind, search, event.data, self._since(event.at)):
                yield kind, {"path": path} | record
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # a run file may hold anything
            raise StoreError(
                f"run {self._run.id}: event {event.seq} cannot be read: {type(error).__name__}: {error}"
            ) from error

    def _begun(self, path: str) -> _Search:
        """The search at ``path``, without thoughts: one that begins again goes through them anew."""
        before = self._searches.get(path)
        if before is None:
            is_shown = self._num_searches < MOST_SEARCHES
            self._num_searches += is_shown
            self._left_out["searches"] += not is_shown
        else:
            is_shown = before.is_shown
            self._num_thoughts -= before.num_shown
            self._left_out["thoughts"] -= before.num_thoughts - before.num_shown
        search = self._searches[path] = _Search(is_shown=is_shown)
        return search

    def _read_event(self, kind: str, search: _Search, data: Any, at: float | None) -> Iterator[_Record]:
        if kind == "began":
            yield "searches", {"has_goal": bool(data["has_goal"])}
        elif kind == "thoughts":
            for entry in data:
                yield from self._arrival(search, entry) if "again" in entry else self._thought(search, entry, at)
        elif kind == "verdicts":
            yield from self._verdicts(search, data)
        elif kind == "pruned":
            yield from (("pruned", {"id": search.known(e["thought"]), "reason": str(e["reason"])}) for e in data)
        elif kind == "votes":
            yield "votes", _votes(data) | {"at": at}
        elif kind == "canvas":
            question = self._questions.get(str(data["call"]))
            yield "canvases", {"question": question, "sample": int(data["sample"]), "num_steps": len(data["steps"])}
        elif kind == "finished":
            best = None if data["thought"] is None else search.known(data["thought"])
            yield "finished", {"stopped": str(data["stopped"]), "thought": best}

    def _thought(self, search: _Search, entry: Mapping[str, Any], at: float | None) -> Iterator[_Record]:
        number = int(entry["id"])
        if number != search.num_thoughts:
            raise ValueError(f"thought {number} stands where thought {search.num_thoughts} should")
        origin = self._origin(search, entry)
        search.num_thoughts += 1
        if self._num_thoughts >= MOST_THOUGHTS:
            self._left_out["thoughts"] += 1
            return
        self._num_thoughts += 1
        search.num_shown += 1
        answer = entry.get("answer")
        record = origin | {
            "id": number,
            "state": str(entry["state"]),
            "goal": bool(entry["goal"]),
            "answer": None if answer is None else str(answer),
            "at": at,
        }
        if "full" in entry:
            record["full"] = str(entry["full"])
        yield "thoughts", record

    def _arrival(self, search: _Search, entry: Mapping[str, Any]) -> Iterator[_Record]:
        known = {"id": search.known(entry["again"]), "is_best": bool(entry.get("is_best"))}
        yield "arrivals", self._origin(search, entry) | known

    def _origin(self, search: _Search, entry: Mapping[str, Any]) -> dict[str, Any]:
        origin: dict[str, Any] = {
            "parents": [search.known(parent) for parent in entry.get("parents", ())],
            "node": str(entry.get("node", "")),
            "sample": int(entry["sample"]),
            "question": None if entry["call"] is None else self._questions.get(str(entry["call"])),
        }
        asked = self._numbers(entry.get("asked", ()))
        return origin | {"questions": asked} if asked else origin

    def _verdicts(self, search: _Search, data: Any) -> Iterator[_Record]:
        asked = search.asked
        by_thought: dict[int, list[dict[str, Any]]] = {}
        for entry in data:
            thought, checker = search.known(entry["thought"]), str(entry["checker"])
            if questions := self._numbers(entry.get("asked", ())):
                asked.setdefault(thought, {})[checker] = questions
            verdict = {
                "checker": checker,
                "score": float(entry["score"]),
                "valid": bool(entry["valid"]),
                "reason": str(entry["reason"] or ""),
                "questions": asked.get(thought, {}).get(checker, []),
            }
            by_thought.setdefault(thought, []).append(verdict)
        yield from (("verdicts", {"id": thought, "by": verdicts}) for thought, verdicts in by_thought.items())

    def _numbers(self, digests: Any) -> list[int]:
        return [self._questions[digest] for digest in map(str, digests) if digest in self._questions]


def summary_of(run: Run) -> dict[str, Any]:
    """What a run is, how it stands and what it has cost, as JSON values.

    A run that cannot be read has its ``problem`` and no more.
    """
    info, is_readable = run.info, run.problem is None
    return {
        "id": run.id,
        "status": run.status,
        "sessions": run.num_sessions,
        "problem": run.problem,
        "is_live": run.status == "running",
        "kind": info.kind,
        "program": info.program,
        "program_text": info.program_text,
        "input": info.input,
        "backend": info.config.get("backend"),
        "seed": info.config.get("seed"),
        "settings": _settings(info.config),
        "versions": dict(info.versions),
        "began_at": run.created_at or None,
        "updated_at": run.updated_at or None,
        "elapsed_s": run.elapsed_s,
        "forked_from": run.forked_from,
        "usage": asdict(run.usage) if is_readable else None,
        "rows": run.num_rows if is_readable else 0,
        "failures": [asdict(f) for f in run.failures() if not f.is_cancelled] if is_readable else [],
        "result": run.result,
    }


def _settings(config: Mapping[str, Any]) -> list[str]:
    """What the command that began the run set, such as ``decoder=hybrid``."""
    labels = config.get("labels")
    command = labels.get("command") if isinstance(labels, dict) else None
    settings = command.get("settings") if isinstance(command, dict) else None
    return [str(setting) for setting in settings] if isinstance(settings, list) else []


def _outcome(outcome: OutcomeRecord) -> dict[str, Any]:
    return {
        "call": outcome.call,
        "state": outcome.state,
        "source": outcome.source,
        "duration_s": outcome.duration_s,
        "usage": asdict(outcome.usage),
        "error": outcome.error,
    }


def _votes(data: Mapping[str, Any]) -> dict[str, Any]:
    confidence = data["confidence"]
    counts = {name: int(data[name]) for name in ("num_samples", "num_valid", "num_allowed")}
    return {
        "histogram": [[str(entry["answer"]), float(entry["votes"])] for entry in data["histogram"]],
        "confidence": None if confidence is None else float(confidence),
        "num_heard": int(data.get("num_heard", counts["num_samples"])),
        **counts,
    }


def _row(number: int, result: Mapping[str, Any]) -> dict[str, Any]:
    error = result.get("error")
    return {
        "number": number,
        "answer": result.get("answer"),
        "gold": result.get("gold"),
        "correct": result.get("correct"),
        "confidence": result.get("confidence"),
        "usage": result.get("usage"),
        "stopped": result.get("stopped"),
        "error": error.get("message") if isinstance(error, dict) else error,
    }
