"""A run as a stream of batches of records: all that it holds, then what is added while it goes on.

The live page and the file that is exported take the same batches. A batch is a JSON object; which keys it may have, and
what is in them, is said where they are made below. Times are seconds since the run began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from llmprog.errors import StoreError
from llmprog.runs.run import EventRecord, Run
from llmprog.runs.tail import RunTail

BATCH = 500
"""Records of a kind in one batch at most, so that a page shows something before it has all."""

MOST_SEARCHES = 500
MOST_THOUGHTS = 200_000
MOST_CALLS = 200_000

_Record = tuple[str, dict[str, Any]]  # the key of a batch, and what is added there


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
        self._searches: dict[str, bool] = {}  # whether those of a path are shown
        self._asked: dict[str, dict[int, dict[str, list[int]]]] = {}  # by path, then by thought, then by checker
        self._counts: dict[str, int] = {}  # thoughts by path
        self._waiting: list[EventRecord] = []
        self._left_out = {"searches": 0, "thoughts": 0, "calls": 0}
        self._num_thoughts = self._num_calls = 0
        self._has_begun = self._has_ended = False
        self._told: dict[str, Any] = {}

    def read(self, at_once: int = 20) -> list[dict[str, Any]]:
        """What is new, in a few batches; read again until there is nothing.

        The first batch of all has ``begin``. Once the run is over and all of it has been told, the last has ``end``,
        and nothing comes after it.

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
        summary = summary_of(self._run) | {"left_out": dict(self._left_out)}
        if summary != self._told:
            self._told = summary
            batches[:0] = [{"run": summary}]
        if not self._has_begun:
            self._has_begun = True
            batches[0] = {"begin": True} | batches[0]
        if is_drained and not is_live:
            self._has_ended = True
            batches.append({"end": True})
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
            batch["calls"] = [asdict(call) | {"sent_at": self._since(call.sent_at)} for call in shown]
        if outcomes:
            batch["outcomes"] = [asdict(outcome) for outcome in outcomes]
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

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round(moment - self._run.created_at, 6)

    def _of_event(self, event: EventRecord) -> Iterator[_Record]:
        """The records that an event becomes, each with the key of a batch that it belongs to."""
        path = event.path
        if event.kind == "began":
            self._searches.setdefault(path, sum(self._searches.values()) < MOST_SEARCHES)
            if not self._searches[path]:
                self._left_out["searches"] += 1
        if not self._searches.get(path, True):
            return
        try:
            for kind, record in self._read_event(event.kind, path, event.data, self._since(event.at)):
                yield kind, {"path": path} | record
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # a run file may hold anything
            raise StoreError(
                f"run {self._run.id}: event {event.seq} cannot be read: {type(error).__name__}: {error}"
            ) from error

    def _read_event(self, kind: str, path: str, data: Any, at: float | None) -> Iterator[_Record]:
        if kind == "began":
            self._asked.pop(path, None)
            self._counts[path] = 0
            yield "searches", {"has_goal": bool(data["has_goal"])}
        elif kind == "thoughts":
            for entry in data:
                yield from self._arrival(path, entry) if "again" in entry else self._thought(path, entry, at)
        elif kind == "verdicts":
            yield from self._verdicts(path, data)
        elif kind == "pruned":
            yield from (("pruned", {"id": self._known(path, e["thought"]), "reason": str(e["reason"])}) for e in data)
        elif kind == "votes":
            histogram = [[str(entry["answer"]), float(entry["votes"])] for entry in data["histogram"]]
            heard = int(data.get("num_heard", data["num_samples"]))
            yield "votes", {**data, "at": at, "histogram": histogram, "num_heard": heard}
        elif kind == "canvas":
            question = self._questions.get(str(data["call"]))
            yield "canvases", {"question": question, "sample": int(data["sample"]), "num_steps": len(data["steps"])}
        elif kind == "finished":
            best = data["thought"]
            yield (
                "finished",
                {
                    "stopped": str(data["stopped"]),
                    "thought": None if best is None else self._known(path, best),
                },
            )

    def _known(self, path: str, thought: Any) -> int:
        """The number of a thought that came before: a page goes by them, so a made-up file is not to make up these."""
        number = int(thought)
        if not 0 <= number < self._counts.get(path, 0):
            raise ValueError(f"it is about a thought {number} that came after it, or never")
        return number

    def _thought(self, path: str, entry: Mapping[str, Any], at: float | None) -> Iterator[_Record]:
        number, expected = int(entry["id"]), self._counts.get(path, 0)
        if number != expected:
            raise ValueError(f"thought {number} stands where thought {expected} should")
        origin = self._origin(path, entry)
        self._counts[path] = number + 1
        if self._num_thoughts >= MOST_THOUGHTS:
            self._left_out["thoughts"] += 1
            return
        self._num_thoughts += 1
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

    def _arrival(self, path: str, entry: Mapping[str, Any]) -> Iterator[_Record]:
        known = {"id": self._known(path, entry["again"]), "is_best": bool(entry.get("is_best"))}
        yield "arrivals", self._origin(path, entry) | known

    def _origin(self, path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        origin: dict[str, Any] = {
            "parents": [self._known(path, parent) for parent in entry.get("parents", ())],
            "node": str(entry.get("node", "")),
            "sample": int(entry["sample"]),
            "question": None if entry["call"] is None else self._questions.get(str(entry["call"])),
        }
        asked = self._numbers(entry.get("asked", ()))
        return origin | {"questions": asked} if asked else origin

    def _verdicts(self, path: str, data: Any) -> Iterator[_Record]:
        asked = self._asked.setdefault(path, {})
        by_thought: dict[int, list[dict[str, Any]]] = {}
        for entry in data:
            thought, checker = self._known(path, entry["thought"]), str(entry["checker"])
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
        "rows": run.counts().rows if is_readable else 0,
        "failures": [asdict(f) for f in run.failures() if not f.is_cancelled] if is_readable else [],
        "result": run.result,
    }


def _settings(config: Mapping[str, Any]) -> list[str]:
    """What the command that began the run set, such as ``decoder=hybrid``."""
    labels = config.get("labels")
    command = labels.get("command") if isinstance(labels, dict) else None
    settings = command.get("settings") if isinstance(command, dict) else None
    return [str(setting) for setting in settings] if isinstance(settings, list) else []


def _row(number: int, result: Mapping[str, Any]) -> dict[str, Any]:
    error = result.get("error")
    return {
        "number": number,
        "answer": result.get("answer"),
        "correct": result.get("correct"),
        "stopped": result.get("stopped"),
        "error": error.get("message") if isinstance(error, dict) else error,
    }
