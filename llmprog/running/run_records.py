"""What a run leaves in its store beside its calls: how it was begun, and its thoughts as they came."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmprog.accounting import Journal
from llmprog.compile import CompiledProgram
from llmprog.errors import LLMProgError, OptionError, ProgramChangedError
from llmprog.events import (
    Event,
    Questions,
    RunFinished,
    SearchStarted,
    ThoughtChecked,
    ThoughtExpanded,
    ThoughtsCompared,
    ThoughtsPruned,
    VotesChanged,
)
from llmprog.json_values import as_json
from llmprog.runs.info import Kind, RunInfo
from llmprog.runs.journal import RunJournal
from llmprog.runs.store import RunStore, default_store, open_store
from llmprog.search.thought_graph import ThoughtGraph, describe_state
from llmprog.templates import shown_value
from llmprog.types import Request, Scoring

_MAX_DIFFERENCE = 40  # lines shown
_MAX_ANSWERS = 30  # of a vote that is under way
_LONGEST_STATE = 10_000


def describe_run(
    compiled: CompiledProgram,
    *,
    kind: Kind,
    input: Any,  # noqa: A002 - the word users expect
    config: Mapping[str, Any],
    labels: Mapping[str, Any],
    key: str | None = None,
) -> RunInfo:
    """What a store keeps of how a run was begun; ``labels`` are its user's own."""
    return RunInfo(
        kind=kind,
        program=compiled.name,
        program_hash=compiled.hash,
        program_text=compiled.declaration,
        input=as_json(input),
        config=as_json({**config, "labels": labels}),
        key=key,
    )


def journal_opener(
    store: str | Path | RunStore | None, info: RunInfo, *, resume: str | None = None, fork: bool = False
) -> Callable[[AsyncExitStack], RunJournal]:
    """Opens the journal of a new run, or of the run ``resume``, in ``store`` (the user's own by default)."""

    def opener(stack: AsyncExitStack) -> RunJournal:
        kept = open_store(default_store() if store is None else store)
        if kept is not store:
            stack.callback(kept.close)
        return kept.create(info) if resume is None else resume_run(kept, resume, info, fork=fork)

    return opener


def resume_run(store: RunStore, run_id: str, info: RunInfo, *, fork: bool) -> RunJournal:
    """The journal of an earlier run, to go on with; of a fork of it where the program is another now.

    Raises:
        ProgramChangedError: The program is another, and ``fork`` was not asked for; the message shows the difference.
        OptionError: The run had another input, backend or other settings; what they are cannot be changed.
        RunLockedError: Another process is at work on it.
    """
    with store.open(run_id) as run:
        run_id, before = run.id, run.info
    for name, was, now in (
        ("input", before.input, info.input),
        *((name, before.config.get(name), value) for name, value in info.config.items() if name != "labels"),
    ):
        if was != now:
            raise OptionError(
                f"run {run_id} was begun with {name}={was!r:.200}, not {now!r:.200}; resume it as it was, or begin a "
                "new run"
            )
    if before.program_hash == info.program_hash:
        return store.resume(run_id)
    if fork:
        return store.fork(run_id, replace(info, config={**before.config, **info.config}))
    raise ProgramChangedError(
        f"program {info.program!r} is not what run {run_id} was begun with:\n{_difference(before, info)}\n"
        "undo the change, or fork the run (fork=True, --fork): a new run that takes over the calls that still fit"
    )


def _difference(before: RunInfo, now: RunInfo) -> str:
    lines = list(
        difflib.unified_diff(
            before.program_text.splitlines(), now.program_text.splitlines(), "then", "now", n=1, lineterm=""
        )
    )
    if len(lines) > _MAX_DIFFERENCE:
        lines = [*lines[:_MAX_DIFFERENCE], f"… {len(lines) - _MAX_DIFFERENCE} more lines"]
    return "\n".join(lines) or "its declaration reads the same; a value that it was made with is another"


class ThoughtRecords:
    """Writes thoughts and verdicts to a journal as they come.

    The events are ``began``, ``thoughts``, ``verdicts``, ``pruned``, ``votes`` and ``finished``. A resumed run goes
    through its thoughts again from the first, so those after the last ``began`` of a path count.
    ``thoughts`` is a list of ``{"id", "parents", "node", "sample", "call", "state", "goal", "answer"}``. ``call`` is
    the digest of the request whose sample the thought was parsed from; only thoughts that may be answered with have an
    ``answer``; ``full`` is a state that ``state`` cuts short; ``asked`` has the digests of what an async node asked.
    Another way to a known thought is a shorter entry, ``{"again", "parents", "node", "sample", "call"}``, with
    ``is_best`` where the thought's own path leads that way from then on. An entry of ``verdicts`` is
    ``{"thought", "checker", "score", "valid", "reason"}``, and ``asked`` where a model was asked for it this time.

    Args:
        journal: Where to.
        path: The run's path in it.
        graph: The search's thoughts.
        answer: What a state is reported as.
        has_goal: Whether the program has a goal; if so, only thoughts that reach it have an answer.
    """

    def __init__(
        self, journal: Journal, path: str, graph: ThoughtGraph, answer: Callable[[Any], Any], *, has_goal: bool
    ) -> None:
        self._journal = journal
        self._path = path
        self._graph = graph
        self._answer = answer
        self._has_goal = has_goal
        journal.event(path, "began", {"has_goal": has_goal})

    def __call__(self, event: Event) -> None:
        if isinstance(event, SearchStarted):
            root = {"id": 0, "parents": (), "node": "", "sample": 0, "call": None} | self._state(0)
            self._journal.event(self._path, "thoughts", [root])
        elif isinstance(event, ThoughtExpanded):
            self._thoughts(event)
        elif isinstance(event, ThoughtChecked):
            self._verdicts((event.thought,), event.asked)
        elif isinstance(event, ThoughtsCompared):
            self._verdicts(event.thoughts, event.asked)
        elif isinstance(event, ThoughtsPruned):
            pruned = [{"thought": thought, "reason": reason} for thought, reason in event.thoughts]
            self._journal.event(self._path, "pruned", pruned)
        elif isinstance(event, VotesChanged):
            votes = event.votes.to_json(max_answers=_MAX_ANSWERS) | {"num_heard": event.num_heard}
            self._journal.event(self._path, "votes", votes)
        elif isinstance(event, RunFinished):
            self._journal.event(self._path, "finished", {"stopped": event.stopped, "thought": event.thought})

    def _thoughts(self, event: ThoughtExpanded) -> None:
        new: list[dict[str, Any]] = []
        count = len(event.children)
        told = zip(
            event.children,
            event.is_new,
            event.nodes,
            event.samples,
            event.is_better or (False,) * count,
            event.requests or (None,) * count,
            event.asked or ((),) * count,
            strict=True,
        )
        for child, is_new, node, sample, is_better, request, asked in told:
            entry: dict[str, Any] = {
                ("id" if is_new else "again"): child,
                "parents": event.parents,
                "node": node,
                "sample": sample,
                "call": None if request is None else _digest(request),
            }
            if is_new:
                entry |= self._state(child)
            elif is_better:
                entry["is_best"] = True
            if asked:
                entry["asked"] = _digests(asked)
            new.append(entry)
        if new:
            self._journal.event(self._path, "thoughts", new)

    def _state(self, thought: int) -> dict[str, Any]:
        state, is_goal = self._graph.states[thought], self._graph.is_goal(thought)
        short, full = describe_state(state)
        described: dict[str, Any] = {"state": short, "goal": is_goal}
        if full is not None:
            described["full"] = full[:_LONGEST_STATE]
        if thought and (is_goal or not self._has_goal):
            try:
                answer = self._answer(state)
            except LLMProgError:
                answer = None  # a thought on the way may have none
            described["answer"] = None if answer is None else shown_value(answer)
        return described

    def _verdicts(self, thoughts: tuple[int, ...], asked: Iterable[tuple[str, Questions]]) -> None:
        questions = {checker: _digests(asked_by) for checker, asked_by in asked}
        found: list[dict[str, Any]] = []
        for thought in thoughts:
            for name, verdict in self._graph.verdicts.get(thought, ()):
                entry = {
                    "thought": thought,
                    "checker": name,
                    "score": verdict.score,
                    "valid": verdict.valid,
                    "reason": verdict.reason,
                }
                found.append(entry | {"asked": questions[name]} if name in questions else entry)
        if found:
            self._journal.event(self._path, "verdicts", found)


@functools.lru_cache(maxsize=256)
def _digest(question: Request | Scoring) -> str:
    return question.digest()


def _digests(questions: Questions) -> list[str]:
    return [*dict.fromkeys(_digest(question) for question in questions)]
