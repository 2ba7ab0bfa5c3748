"""The composition root: a program, a backend and a seed make a run."""

from __future__ import annotations

import atexit
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmprog.backends.base import Backend
from llmprog.backends.recording import Recorder, RecordingBackend
from llmprog.backends.registry import open_backend
from llmprog.backends.scheduler import Scheduler
from llmprog.background_loop import run_sync
from llmprog.compile import CompiledProgram, compile_program
from llmprog.errors import InputError, LLMProgError, NodeError, OptionError
from llmprog.events import Event
from llmprog.program import Program
from llmprog.search.controller import VoteResult, is_whole
from llmprog.search.runtime import Search, SearchOutcome
from llmprog.search.thought_graph import Thought, ThoughtGraph
from llmprog.templates import format_value
from llmprog.types import Usage

BackendChoice = str | Backend | Mapping[str, "str | Backend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found and what it spent.

    Attributes:
        program: The program's name.
        input: What it was given.
        answer: The answer of the solving thought, of the vote, or of the best thought so far; ``None`` if
            there is none.
        solved: A goal was reached, or, for a program without a goal, there is an answer.
        stopped: Why the search ended: ``goal``, ``exhausted``, ``max_depth``, ``num_samples``, ``confident`` …
        explanation: Why there is no solution, where the program can tell.
        votes: The vote, for voting controllers.
        usage: Calls, tokens and money.
        graph: Every thought, with its provenance.
        thought: The thought that was answered with.
        wall_s: Seconds from start to end.
        seed: Repeats the run.
        backend: Id of the backend, or ids by node.
    """

    program: str
    input: Any
    answer: Any
    solved: bool
    stopped: str
    explanation: str | None
    votes: VoteResult | None
    usage: Usage
    graph: ThoughtGraph = field(repr=False)
    thought: Thought | None = field(repr=False)
    wall_s: float
    seed: int
    backend: str

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values, without the graph (``graph.to_json()`` has that)."""
        votes = None
        if self.votes is not None:
            votes = {
                "histogram": [{"answer": format_value(a), "votes": n} for a, n in self.votes.histogram],
                "confidence": self.votes.confidence,
                "num_samples": self.votes.num_samples,
                "num_valid": self.votes.num_valid,
                "num_allowed": self.votes.num_allowed,
            }
        usage = asdict(self.usage)
        content = {
            "program": self.program,
            "input": self.input,
            "answer": None if self.answer is None else format_value(self.answer),
            "solved": self.solved,
            "stopped": self.stopped,
            "explanation": self.explanation,
            "votes": votes,
            "usage": usage,
            "thoughts": len(self.graph),
            "wall_s": self.wall_s,
            "seed": self.seed,
            "backend": self.backend,
        }
        return json.loads(json.dumps(content, default=str))  # type: ignore[no-any-return]  # an object stays one


_opened: dict[str, Backend] = {}


def shared_backend(backend_id: str) -> Backend:
    """The backend with this id, opened once per process and closed at its end."""
    if backend_id not in _opened:
        if not _opened:
            atexit.register(_close_all)
        _opened[backend_id] = open_backend(backend_id)
    return _opened[backend_id]


def _close_all() -> None:
    for backend in _opened.values():
        run_sync(backend.aclose())
    _opened.clear()


def _scheduler(
    compiled: CompiledProgram,
    choice: BackendChoice | None,
    on_event: Callable[[Event], None] | None,
    stream: bool,
    recorder: Recorder | None,
) -> tuple[Scheduler, str]:
    on_delta = on_event if stream else None

    def opened(item: str | Backend) -> Backend:
        if isinstance(item, str):
            item = shared_backend(item)
        elif not isinstance(item, Backend):
            raise OptionError(
                f"backend={item!r}; allowed is an id such as 'local:puzzles', a Backend, or these by node"
            )
        return item if recorder is None else RecordingBackend(item, recorder)

    if isinstance(choice, Mapping):
        known = (*compiled.model_nodes, "default")
        for node in choice:
            if node not in known:
                raise OptionError.unknown(f"node in backend= for program {compiled.name!r}:", node, known)
        missing = [] if "default" in choice else [node for node in compiled.prompted_nodes if node not in choice]
        if missing:  # said before anything is paid for
            raise OptionError(
                f"backend= for program {compiled.name!r} has none for {', '.join(missing)}; add 'default'"
            )
        backends = {node: opened(item) for node, item in choice.items()}
        label = ", ".join(f"{node}={backend.id}" for node, backend in backends.items())
        default = backends.pop("default", None)
        return Scheduler(default, backends, on_settled=on_event, on_delta=on_delta), label
    if choice is None and compiled.prompted_nodes:
        raise OptionError(
            f"program {compiled.name!r} calls a model in {', '.join(compiled.prompted_nodes)}, "
            "but no backend was given; pass backend='local:puzzles', for one"
        )
    # A program of plain Python runs without loading a model.
    backend = opened(choice) if choice is not None and compiled.model_nodes else None
    scheduler = Scheduler(backend, on_settled=on_event, on_delta=on_delta)
    return scheduler, "none" if backend is None else backend.id


async def arun(
    program: Program,
    input: Any,  # noqa: A002 - the word users expect
    *,
    backend: BackendChoice | None = None,
    seed: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    max_in_flight: int = 1024,
    stream: bool = False,
    record: str | Path | None = None,
) -> Result:
    """Run a program to its end.

    Args:
        program: What to run.
        input: What the program's ``start`` takes.
        backend: An id (``local:puzzles``), a ``Backend``, or either by node name, with ``default`` for the rest.
            Programs whose nodes are all plain Python need none, and open none.
        seed: Repeats a run on backends that honour seeds; drawn at random and reported if not given.
        on_event: Called with every event in order; it must not block.
        max_in_flight: Actions the search may have under way at once.
        stream: Have backends that can send completions piece by piece do so; each piece is a ``CompletionDelta`` event.
        record: A file that all calls and completions are appended to. With the same seed, the backend ``replay:FILE``
            repeats the run from it without calling a model.

    Raises:
        CompileError: The program's declaration has faults.
        InputError: ``start`` refused the input.
        BackendError: A model call failed; ``.partial`` holds the ``Result`` so far.
        NodeError: A node's function raised; ``.partial`` likewise.
    """
    compiled = compile_program(program)
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    if not isinstance(seed, int):
        raise OptionError(f"seed={seed!r}; allowed is a whole number, or None")
    if not is_whole(max_in_flight, 1):
        raise OptionError(f"max_in_flight={max_in_flight!r}; allowed is a whole number >= 1")
    start = _start_state(program, input)
    with nullcontext() if record is None else Recorder(record) as recorder:
        scheduler, label = _scheduler(compiled, backend, on_event, stream, recorder)
        search = Search(compiled, scheduler, seed=seed, max_in_flight=max_in_flight, observe=on_event)
        begun = time.perf_counter()

        def result(outcome: SearchOutcome) -> Result:
            state = None if outcome.thought is None else outcome.graph.states[outcome.thought]
            complete = outcome.stopped != "error"
            has_answer = complete and outcome.thought is not None and (program.goal is None or outcome.reached_goal)
            answer = None if state is None else _answer_of(program, state, has_answer)
            solved = has_answer and answer is not None
            explain = program.explain if complete and not solved else None
            return Result(
                program=program.name,
                input=input,
                answer=answer,
                solved=solved,
                stopped=outcome.stopped,
                explanation=None if explain is None else _call("explain", explain, start),
                votes=outcome.votes,
                usage=scheduler.usage,
                graph=outcome.graph,
                thought=None if outcome.thought is None else outcome.graph[outcome.thought],
                wall_s=time.perf_counter() - begun,
                seed=seed,
                backend=label,
            )

        try:
            return result(await search.run(start))
        except LLMProgError as error:
            if len(search.graph) and error.partial is None:
                error.partial = result(_outcome_so_far(search))
            raise


def _outcome_so_far(search: Search) -> SearchOutcome:
    try:
        return search.outcome("error")
    except LLMProgError:  # the function whose error ended the search is asked again for the outcome
        return SearchOutcome(graph=search.graph, thought=None, reached_goal=False, stopped="error", votes=None)


def _start_state(program: Program, given: Any) -> Any:
    if program.start is None:
        return given
    try:
        return program.start(given)
    except LLMProgError:
        raise
    except Exception as error:  # whatever a user's parser raises: named and raised again
        raise InputError(f"program {program.name!r} cannot use the input {given!r}: {error}") from error


def _answer_of(program: Program, state: Any, is_final: bool) -> Any:
    """The answer for a state; the best so far of an unsolved search may have none yet."""
    if program.answer is None:
        return state
    try:
        return _call("answer", program.answer, state)
    except LLMProgError:
        if is_final:
            raise
        return None


def _call(part: str, function: Callable[[Any], Any], state: Any) -> Any:
    try:
        return function(state)
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise NodeError(part, f"raised {type(error).__name__}: {error} for the state {state!r}") from error


def run(program: Program, input: Any, **options: Any) -> Result:  # noqa: A002 - the word users expect
    """``arun`` for callers without an event loop, and for notebooks, whose loop is already running."""
    return run_sync(arun(program, input, **options))
