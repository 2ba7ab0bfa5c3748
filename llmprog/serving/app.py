"""The server as an ASGI app: its paths, and what each does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmprog.runs.ledger import Ledger
from llmprog.runs.store import RunStore
from llmprog.serving.answers import encode
from llmprog.serving.asking import chat_plan, infill_plan, score_plan, text_plan
from llmprog.serving.bodies import ChatBody, InfillBody, ScoreBody, TextBody
from llmprog.serving.calls import Calls
from llmprog.serving.catalog import Catalog, ServedProgram
from llmprog.serving.exchange import CallEndpoint, Plan, StreamPlan
from llmprog.serving.faults import RequestError, fault_of
from llmprog.serving.guard import Access, Guard
from llmprog.serving.program_calls import program_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server serves, and within which limits.

    Attributes:
        catalog: Backends and programs.
        calls: Those in flight.
        access: Who may talk to it.
        ledger: What it may spend in all; ``None`` sets no limit.
        store: Where runs of programs are kept; ``None`` keeps none.
    """

    catalog: Catalog
    calls: Calls
    access: Access
    ledger: Ledger | None = None
    store: RunStore | None = None


def make_app(served: Served) -> Starlette:
    """The ASGI app that serves ``served``."""
    catalog, calls, ledger = served.catalog, served.calls, served.ledger
    begun = int(time.time())

    def chat(body: ChatBody) -> Plan[Any] | StreamPlan:
        found = catalog.find(body.model)
        if isinstance(found, ServedProgram):
            return program_plan(body, found, ledger, served.store)
        return chat_plan(body, found.backend, ledger)

    def text(body: TextBody) -> Plan[Any] | StreamPlan:
        found = catalog.find(body.model)
        if isinstance(found, ServedProgram):
            return program_plan(body, found, ledger, served.store)
        return text_plan(body, found.backend, ledger)

    def infill(body: InfillBody) -> Plan[Any]:
        return infill_plan(body, _backend(catalog, body.model), ledger)

    def score(body: ScoreBody) -> Plan[Any]:
        return score_plan(body, _backend(catalog, body.model), ledger)

    def model_of(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": begun,
            "owned_by": "llmprog",
            "llmprog": catalog.describe(name),
        }

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [model_of(name) for name in catalog.names()]})

    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        catalog.find(name)
        return _json(model_of(name))

    async def health(_: Request) -> Response:
        return _json(
            {
                "status": "closing" if calls.is_closing else "ok",
                "in_flight": calls.in_flight,
                "answered": calls.num_answered,
                "gone": calls.num_gone,
            }
        )

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{model:path}", model, methods=["GET"]),
            Route("/v1/chat/completions", CallEndpoint(calls, ChatBody, chat), methods=["POST"]),
            Route("/v1/completions", CallEndpoint(calls, TextBody, text), methods=["POST"]),
            Route("/v1/infill", CallEndpoint(calls, InfillBody, infill), methods=["POST"]),
            Route("/v1/score", CallEndpoint(calls, ScoreBody, score), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, access=served.access)],
        exception_handlers={HTTPException: _http_fault, RequestError: _fault, Exception: _fault},
    )


def _backend(catalog: Catalog, model: str) -> Any:
    found = catalog.find(model)
    if isinstance(found, ServedProgram):
        raise RequestError(f"{model} is a program; name a backend here", param="model")
    return found.backend


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")


async def _http_fault(_: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = {404: "no such path; there are /v1/models, /v1/chat/completions, /v1/completions, /v1/infill, /v1/score"}
    fault = RequestError(message.get(status, "this method is not allowed here"), status=status)
    return JSONResponse(fault.body, status_code=status)


async def _fault(_: Request, error: Exception) -> Response:
    fault = fault_of(error)
    return JSONResponse(fault.body, status_code=fault.status, headers=dict(fault.headers))
