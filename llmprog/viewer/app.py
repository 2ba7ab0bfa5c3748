"""The viewer as an ASGI app: its paths, and what each shows. All of them only read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from llmprog.errors import LLMProgError, OptionError, StoreError, UnknownRunError
from llmprog.runs.run import Run
from llmprog.runs.store import RunStore
from llmprog.viewer import bundle
from llmprog.viewer.access import LOGIN, Access, Gate, RefusedError, refused, session_in
from llmprog.viewer.details import call_details, canvas_details
from llmprog.viewer.encoding import encode
from llmprog.viewer.follow import FollowedRun, Followers
from llmprog.viewer.run_list import MOST_RUNS, RunList

_LONGEST = 200  # characters of a query


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewed:
    """What a viewer shows, and to whom.

    Attributes:
        store: The runs.
        access: Who may look.
        followers: Those who follow a run.
        begin_at: The place of the page that a login leads to, such as ``#/run/20261122-064501-k3f9``.
    """

    store: RunStore
    access: Access
    followers: Followers
    begin_at: str = ""


def make_app(viewed: Viewed) -> Gate:
    """The ASGI app that shows ``viewed``."""
    store, access = viewed.store, viewed.access
    run_list = RunList(store)

    async def login(request: Request) -> Response:
        if request.method != "GET" or request.headers.get("sec-purpose", "").startswith("prefetch"):
            return PlainTextResponse("open this address in a browser\n", status_code=403)  # a look ahead spends nothing
        response = RedirectResponse(f"/{viewed.begin_at}", status_code=303)
        if access.sessions.knows(session_in(request.headers, access.cookie)):
            return response  # whoever opens the address again in the same browser
        session = access.sessions.begin(request.query_params.get("token", ""))
        is_https = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        response.set_cookie(access.cookie, session, httponly=True, samesite="strict", secure=is_https, path="/")
        return response

    async def page(_: Request) -> Response:
        return Response(bundle.html(), media_type="text/html")

    async def style(_: Request) -> Response:
        return Response(bundle.style(), media_type="text/css")

    async def script(_: Request) -> Response:
        return Response(bundle.script(), media_type="text/javascript")

    async def runs(request: Request) -> Response:
        asked = request.query_params
        options: dict[str, Any] = {name: asked.get(name, "")[:_LONGEST] for name in ("query", "status", "program")}
        options["offset"] = _number(asked.get("offset", "0"), "offset")
        options["limit"] = _number(asked.get("limit", str(MOST_RUNS)), "limit")
        return await _answer(lambda: run_list.page(**options))

    async def state(request: Request) -> Response:
        return await _answer(lambda: _of_run(store, request.path_params["run"], _state))

    async def call(request: Request) -> Response:
        asked = request.path_params
        return await _answer(lambda: _of_run(store, asked["run"], lambda run: call_details(run, asked["call"])))

    async def canvas(request: Request) -> Response:
        asked, path = request.path_params, request.query_params.get("path", "")

        def look(run: Run) -> Any:
            return canvas_details(run, path, asked["question"], asked["sample"])

        return await _answer(lambda: _of_run(store, asked["run"], look))

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/style.css", style),
            Route("/page.js", script),
            Route(LOGIN, login),
            Route("/api/runs", runs),
            Route("/api/runs/{run}/feed", _Feed(store, viewed.followers), methods=["GET", "HEAD"]),
            Route("/api/runs/{run}/state", state),
            Route("/api/runs/{run}/calls/{call:int}", call),
            Route("/api/runs/{run}/canvases/{question:int}/{sample:int}", canvas),
        ],
        exception_handlers={HTTPException: _no_such_path, RefusedError: _refused, LLMProgError: _fault},
    )
    return Gate(app, access)


class _Feed:
    """Answers with a run that is followed."""

    def __init__(self, store: RunStore, followers: Followers) -> None:
        self._store = store
        self._followers = followers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if request.method == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        with self._followers.place() as is_free:
            if not is_free:
                fault = _json({"error": "too many pages follow a run at once; close some"}, status=503)
                await fault(scope, receive, send)
                return
            run = await run_in_threadpool(self._store.open, request.path_params["run"])
            await FollowedRun(run, self._followers)(scope, receive, send)


async def _answer(look: Callable[[], Any]) -> Response:
    """What ``look`` finds, as JSON; in a thread, since a database makes one wait."""

    def found() -> str:
        return encode(look())

    return _as_json(await run_in_threadpool(found))


def _of_run(store: RunStore, run_id: str, look: Callable[[Run], Any]) -> Any:
    with store.open(run_id) as run, run.reporting():
        try:
            return look(run)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a file may hold anything
            raise StoreError(f"run {run.id}: it cannot be shown: {type(error).__name__}: {error}") from error


def _state(run: Run) -> dict[str, Any]:
    """By what a page sees that a run that was over goes on: another session, or another status."""
    return {"sessions": run.num_sessions, "status": run.status}


def _number(given: str, name: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise OptionError(f"{name}={given[:20]!r}; allowed is a whole number >= 0")
    return int(given)


def _json(value: Any, status: int = 200) -> Response:
    return _as_json(encode(value), status)


def _as_json(text: str, status: int = 200) -> Response:
    return Response(text, status_code=status, media_type="application/json")


async def _no_such_path(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _json({"error": "there is nothing at this address; the runs are at /"}, status=status)


async def _refused(_: Request, error: Exception) -> Response:
    return refused(error if isinstance(error, RefusedError) else RefusedError(str(error)))


async def _fault(_: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, UnknownRunError) else 400 if isinstance(error, OptionError) else 422
    return _json({"error": str(error)}, status=status)
