"""One call over HTTP: its body read, its work done, its answer sent, and its slot freed however it ends."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from llmprog.errors import LLMProgError
from llmprog.log import Log
from llmprog.serving.answers import Answer, Form, encode
from llmprog.serving.bodies import Body
from llmprog.serving.calls import Calls
from llmprog.serving.faults import RequestError, fault_of, shutting_down
from llmprog.serving.reading import read_body
from llmprog.serving.settled import SettledText
from llmprog.types import Delta

HEARTBEAT_S = 2.0
"""Silence after which a stream sends a comment, so that nothing on the way takes it for dead."""

_SEND_S = 60.0  # a client that takes nothing for so long is taken to be gone
_GONE = 499  # what logs call a call whose client went away

_log = Log("llmprog.serving")

Tell = Callable[[Delta], None]
B = TypeVar("B", bound=Body)
T = TypeVar("T")


def _nothing_new() -> str:
    return "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[T]):
    """What a request asks for.

    Attributes:
        work: Does it; it is told of nothing.
        whole: The body that its result is.
    """

    work: Callable[[], Coroutine[Any, Any, T]]
    whole: Callable[[T], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What a request for a stream asks for.

    Attributes:
        work: Does it, and tells of every piece by the number of its choice.
        form: How pieces are written.
        stops: The texts that end a reply.
        include_usage: Whether the usage ends the stream.
        include_canvas: Whether every change of a diffusion model's text is shown.
        progress: A line on how far it has come, for comments.
    """

    work: Callable[[Tell], Coroutine[Any, Any, Answer]]
    form: Form
    stops: Sequence[str] = ()
    include_usage: bool = False
    include_canvas: bool = False
    progress: Callable[[], str] = _nothing_new


class CallEndpoint(Generic[B]):
    """Answers requests of one kind, as an ASGI app.

    Args:
        calls: Counts them.
        kind: Of their bodies.
        plan: What a body asks for; whatever it raises is what the client is told.
    """

    def __init__(self, calls: Calls, kind: type[B], plan: Callable[[B], Plan[Any] | StreamPlan]) -> None:
        self._calls = calls
        self._kind = kind
        self._plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        begun = time.monotonic()
        sender = _Sender(send)
        model = ""
        try:
            with self._calls.slot():
                body = await read_body(Request(scope, receive), self._kind)
                model = ascii(getattr(body, "model", ""))[1:-1]
                await self._carry_out(self._plan(body), receive, sender)
            status = 200
        except ClientDisconnect:
            status = _GONE
        except Exception as error:  # noqa: BLE001 - the boundary: the client is told, the server goes on
            fault = fault_of(error)
            status = fault.status
            if not isinstance(error, LLMProgError):  # its words may hold what was asked, so they are not logged
                places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
                _log.warning("call failed", error=type(error).__name__, at=" ".join(places[-3:]))
            await sender.fault(fault)
        if status == _GONE:
            self._calls.num_gone += 1
        else:
            self._calls.num_answered += 1
        took = round(time.monotonic() - begun, 3)
        _log.info("call", path=scope["path"], model=model[:100], status=status, duration_s=took)

    async def _carry_out(self, plan: Plan[Any] | StreamPlan, receive: Receive, sender: _Sender) -> None:
        pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        work = plan.work(pieces.put_nowait) if isinstance(plan, StreamPlan) else plan.work()
        task = self._calls.start(work)
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(lambda _: task.cancel())
        try:
            if isinstance(plan, StreamPlan):
                await self._stream(plan, task, gone, pieces, sender)
            else:
                await asyncio.wait({task})
                await sender.whole(plan.whole(self._result(task, gone)))
        finally:
            for left in (gone, task):
                left.cancel()
            await asyncio.gather(gone, task, return_exceptions=True)

    async def _stream(
        self,
        plan: StreamPlan,
        task: asyncio.Task[Answer],
        gone: asyncio.Future[None],
        pieces: asyncio.Queue[Delta | None],
        sender: _Sender,
    ) -> None:
        choices = _StreamedChoices(plan)
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    delta = await pieces.get()
            except TimeoutError:
                await sender.comment(plan.progress())
                continue
            if delta is None:
                break
            await sender.events(choices.add(delta))
        await sender.events(choices.finish(self._result(task, gone)))
        await sender.end()

    def _result(self, task: asyncio.Task[T], gone: asyncio.Future[None]) -> T:
        """What a task that is done came to.

        Raises:
            ClientDisconnect: It was cancelled since its client is gone.
            RequestError: It was cancelled since the server ends.
        """
        if not task.cancelled():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        raise shutting_down()


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _StreamedChoices:
    """The events of a stream: what the pieces of all its choices make."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._settled: dict[int, SettledText] = {}
        self._has_reasoned: set[int] = set()

    def add(self, delta: Delta) -> list[dict[str, Any]]:
        """The events that a piece makes."""
        index, form = delta.sample, self._plan.form
        events = self._begin(index)
        if delta.is_reasoning:
            if delta.text and not delta.replaces:
                self._has_reasoned.add(index)
                events.append(form.piece(index, delta.text, is_reasoning=True))
            return events
        if piece := self._settled[index].add(delta):
            events.append(form.piece(index, piece))
        if self._plan.include_canvas and delta.replaces:
            events.append(form.canvas(index, delta.text))
        return events

    def finish(self, answer: Answer) -> list[dict[str, Any]]:
        """The events that the answer makes, now that it is known.

        Raises:
            RequestError: It is not what was begun.
        """
        form = self._plan.form
        events: list[dict[str, Any]] = []
        for index, completion in enumerate(answer.completions):
            events += self._begin(index)
            if completion.reasoning and index not in self._has_reasoned:
                events.append(form.piece(index, completion.reasoning, is_reasoning=True))
            if piece := self._settled[index].finish(completion.text):
                events.append(form.piece(index, piece))
            events.append(form.end(index, completion))
        if answer.notes is not None and events:
            events[-1]["llmprog"] = dict(answer.notes)
        if self._plan.include_usage:
            events.append(form.usage(answer))
        return events

    def _begin(self, index: int) -> list[dict[str, Any]]:
        if index in self._settled:
            return []
        self._settled[index] = SettledText(self._plan.stops)
        event = self._plan.form.begin(index)
        return [] if event is None else [event]


class _Sender:
    """Sends one response: headers with the first thing that is sent, so that an error before it has its own status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams = False

    async def whole(self, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A body that comes at once."""
        data = encode(body)
        named = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        await self._start(status, named)
        await self._body(data, more=False)

    async def fault(self, fault: RequestError) -> None:
        """An error: a response of its own, or the last event of a stream that has begun."""
        try:
            if self._streams:
                await self._body(b"data: " + encode(fault.body) + b"\n\n", more=False)
            else:
                await self.whole(fault.body, fault.status, fault.headers)
        except ClientDisconnect:
            return  # nobody is left to be told

    async def events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Events of a stream, in one write."""
        if events:
            await self._begin()
            await self._body(b"".join(b"data: " + encode(event) + b"\n\n" for event in events))

    async def comment(self, text: str) -> None:
        """A line that clients read over."""
        await self._begin()
        await self._body(f": {text}\n\n".encode())

    async def end(self) -> None:
        """The end of a stream that is complete."""
        await self._body(b"data: [DONE]\n\n", more=False)

    async def _begin(self) -> None:
        if not self._streams:
            self._streams = True
            headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            await self._start(200, headers)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(_SEND_S):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ClientDisconnect from None
