"""What runs and calls tell whoever looks: spans of OpenTelemetry, and log lines.

Spans follow OpenTelemetry's conventions for generative AI: ``invoke_workflow PROGRAM`` for a search, with a ``chat
MODEL`` below it for each call that was sent. They are made where the program has set up a tracer provider; nothing has
to be switched on, and where there is none nothing is made. Prompts and completions are in them only if the environment
variable ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it.

Of log lines, ``llmprog.runs`` has the begin and end of every run, its calls and its thoughts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmprog.events import Event, ThoughtChecked, ThoughtExpanded
from llmprog.log import Log, bound
from llmprog.tracing.conventions import (
    answered_attributes,
    asked_attributes,
    clean_text,
    input_attributes,
    output_messages,
)
from llmprog.types import Completion, Logprobs, Request, Scoring, Usage, total_usage

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES = ("true", "1", "span_only", "span_and_event")
_IN_PROCESS = ("local", "replay", "scripted")

_log = Log("llmprog.runs")

A = TypeVar("A", bound="Sequence[Completion] | Sequence[Logprobs]")


class Outcome(Protocol):
    """What a run came to, in so far as it is told."""

    @property
    def stopped(self) -> str:
        """Why it ended."""
        ...

    @property
    def solved(self) -> bool:
        """Whether there is a solution."""
        ...

    @property
    def usage(self) -> Usage:
        """What it spent."""
        ...


R = TypeVar("R", bound=Outcome)


class WatchedRun:
    """A run as it is told of, from entering to leaving it.

    Args:
        program: The program's name.
        run: The run's id; ``None`` for one that is not kept.
        path: Where in the run it is; empty for the run itself.
        backend: Ids of the backends.
        seed: Repeats it.
    """

    def __init__(self, program: str, *, run: str | None, path: str, backend: str, seed: int) -> None:
        self._program = program
        self._ids = {name: value for name, value in (("run", run), ("path", path)) if value}
        self._backend = backend
        self._seed = seed
        self._level = logging.DEBUG if path else logging.INFO  # a job has very many rows
        self._begun = 0.0
        self._stack = ExitStack()
        self._token: Token[WatchedRun | None] | None = None
        self.span: Span | None = None
        self.tracer: Tracer | None = None
        self.logs_calls = False
        self.captures_content = False

    def __enter__(self) -> WatchedRun:
        self._begun = time.monotonic()
        self._stack.enter_context(bound(**self._ids))
        self._begin_span()
        self.logs_calls = _log.is_enabled(logging.DEBUG)
        if self.tracer is not None or self.logs_calls:
            self._token = _run.set(self)
        self._tell("run started", program=self._program, backend=self._backend, seed=self._seed)
        return self

    def _begin_span(self) -> None:
        # Whoever set up a tracer provider has imported this; importing it for nobody would only cost time.
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return
        tracer = trace.get_tracer("llmprog")
        ids = {f"llmprog.{name}": value for name, value in self._ids.items()}
        span = tracer.start_span(
            f"invoke_workflow {clean_text(self._program)}",
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": clean_text(self._program),
                "llmprog.backend": clean_text(self._backend),
                "llmprog.seed": self._seed,
                **ids,
            },
        )
        self._stack.enter_context(_as_current(trace, span))
        if span.is_recording():
            self.span, self.tracer = span, tracer
            self.captures_content = os.environ.get(CAPTURE_CONTENT, "").lower() in _CAPTURES

    def came_to(self, outcome: R) -> R:
        """Tell what the run came to; returns ``outcome``."""
        usage = outcome.usage
        if self.span is not None:
            self.span.set_attributes(
                {
                    "llmprog.stopped": outcome.stopped,
                    "llmprog.solved": outcome.solved,
                    "llmprog.usage.calls": usage.calls,
                    "llmprog.usage.input_tokens": usage.prompt_tokens,
                    "llmprog.usage.output_tokens": usage.completion_tokens,
                    **({} if usage.usd is None else {"llmprog.usage.usd": usage.usd}),
                }
            )
        self._tell(
            "run finished",
            program=self._program,
            stopped=outcome.stopped,
            solved=outcome.solved,
            calls=usage.calls,
            usd=usage.usd,
            wall_s=round(time.monotonic() - self._begun, 3),
        )
        return outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._tell("run ended early", program=self._program, error=_in_short(error))
        if self._token is not None:
            _run.reset(self._token)
        if self.span is not None:
            _end(self.span, error)
        self._stack.close()

    def _tell(self, event: str, **details: Any) -> None:
        if self._level == logging.INFO:
            _log.info(event, **details)
        elif self.logs_calls:
            _log.debug(event, **details)


class WatchedCall:
    """A call as it is told of, from entering to leaving it; see ``watch_call``."""

    def __init__(self, run: WatchedRun, node: str, backend: str, question: Request | Scoring, call: int | None) -> None:
        self._run = run
        self._node = node
        self._backend = backend
        self._question = question
        self._ids = {} if call is None else {"call": call}
        self._stack = ExitStack()
        self._span: Span | None = None
        self._begun = 0.0
        self._token: Token[WatchedCall | None] | None = None

    def __enter__(self) -> WatchedCall:
        self._begun = time.monotonic()
        self._stack.enter_context(bound(**self._ids))
        self._token = _call.set(self)
        tracer = self._run.tracer
        if tracer is not None:
            import opentelemetry.trace as trace

            attributes = asked_attributes(self._node, self._backend, self._question)
            attributes |= {f"llmprog.{name}": value for name, value in self._ids.items()}
            if self._run.captures_content:
                attributes |= input_attributes(self._question)
            is_remote = self._backend.partition(":")[0] not in _IN_PROCESS
            self._span = tracer.start_span(
                f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}",
                kind=trace.SpanKind.CLIENT if is_remote else trace.SpanKind.INTERNAL,
                attributes=attributes,
            )
            self._stack.enter_context(_as_current(trace, self._span))
        return self

    def answered(self, answers: A) -> A:
        """Tell what came back; returns ``answers``."""
        completions = [answer for answer in answers if isinstance(answer, Completion)]
        usage = total_usage(completions)
        if self._span is not None and completions:
            self._span.set_attributes(answered_attributes(completions, usage))
            if self._run.captures_content:
                self._span.set_attribute("gen_ai.output.messages", output_messages(completions))
        if self._run.logs_calls:
            self._debug(
                "call settled",
                answers=len(answers),
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
            )
        return answers

    def retried(self, error: BaseException, duration_s: float) -> None:
        """Tell of an attempt that failed and is followed by another."""
        if self._span is not None:
            self._span.add_event(
                "llmprog.retry",
                {
                    "error.type": type(error).__name__,
                    "exception.message": clean_text(str(error)),
                    "llmprog.attempt.duration_s": duration_s,
                },
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _call.reset(self._token)
        if error is not None and self._run.logs_calls:
            self._debug("call failed", error=_in_short(error))
        if self._span is not None:
            _end(self._span, error)
        self._stack.close()

    def _debug(self, event: str, **details: Any) -> None:
        took = round(time.monotonic() - self._begun, 4)
        _log.debug(event, node=self._node, backend=self._backend, duration_s=took, **details)


class Unwatched:
    """Stands for a call that nobody looks at; it does nothing."""

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def answered(self, answers: A) -> A:
        return answers


_UNWATCHED = Unwatched()
_run: ContextVar[WatchedRun | None] = ContextVar("llmprog_watched_run", default=None)
_call: ContextVar[WatchedCall | None] = ContextVar("llmprog_watched_call", default=None)


def watch_call(node: str, backend: str, question: Request | Scoring, call: int | None) -> WatchedCall | Unwatched:
    """Tell of a call of the run that goes on, from entering to leaving what this returns.

    Args:
        node: The node that asks.
        backend: Id of the backend.
        question: What is asked.
        call: The call's number in the run's journal, where there is one.
    """
    run = _run.get()
    return _UNWATCHED if run is None else WatchedCall(run, node, backend, question, call)


def thought_log() -> Callable[[Event], None] | None:
    """What writes a log line for the thoughts of the run that goes on; ``None`` where such lines are not written."""
    run = _run.get()
    return _log_thoughts if run is not None and run.logs_calls else None


def _log_thoughts(event: Event) -> None:
    if isinstance(event, ThoughtExpanded):
        new = [child for child, is_new in zip(event.children, event.is_new, strict=True) if is_new]
        _log.debug("thoughts added", parents=list(event.parents), thoughts=new)
    elif isinstance(event, ThoughtChecked):
        _log.debug("thought judged", thought=event.thought)


def note_retry(error: BaseException, duration_s: float) -> None:
    """Tell of an attempt of the call that goes on: it failed, and another follows."""
    call = _call.get()
    if call is not None:
        call.retried(error, duration_s)


def _as_current(trace: Any, span: Span) -> AbstractContextManager[object]:
    """Have spans that are begun inside be children of ``span``; it is ended elsewhere, and so are errors noted."""
    current: AbstractContextManager[object] = trace.use_span(
        span, end_on_exit=False, record_exception=False, set_status_on_exception=False
    )
    return current


def _end(span: Span, error: BaseException | None) -> None:
    if isinstance(error, asyncio.CancelledError):
        span.set_attribute("llmprog.cancelled", True)  # what is not needed any more is no failure
    elif error is not None:
        from opentelemetry.trace import Status, StatusCode

        span.set_attribute("error.type", type(error).__name__)
        span.add_event(
            "exception", {"exception.type": type(error).__name__, "exception.message": clean_text(str(error))}
        )
        span.set_status(Status(StatusCode.ERROR, clean_text(str(error))))
    span.end()


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"
