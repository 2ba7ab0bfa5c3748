"""Reads the body of a request: bounded in bytes, in time and in depth, strict JSON, checked field by field."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from llmprog.serving.bodies import IGNORED
from llmprog.serving.faults import RequestError

MAX_BODY_BYTES = 8 * 2**20
MAX_DEPTH = 64
_BODY_S = 30.0
_SHOWN = 80

B = TypeVar("B", bound=BaseModel)


async def read_body(request: Request, kind: type[B]) -> B:
    """The body of ``request``.

    Raises:
        RequestError: It is not JSON of this kind, too large, too deep, or did not come in time.
        ClientDisconnect: The client went away before it had sent it.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # A browser sends other types to any server, without asking first whether it may.
        raise RequestError(
            f"content-type {content_type[:_SHOWN]!r}: allowed is application/json", status=415, code="unsupported_type"
        )
    try:
        async with asyncio.timeout(_BODY_S):
            data = await _bounded(request)
    except TimeoutError:
        raise RequestError(f"the body did not come within {_BODY_S:g} s", status=408) from None
    return parse_body(data, kind)


def parse_body(data: bytes, kind: type[B]) -> B:
    """The body that ``data`` is.

    Raises:
        RequestError: It is not JSON of this kind, or too deep.
    """
    value = _json(data)
    if not isinstance(value, dict):
        raise RequestError(f"the body is {_brief(value)}; allowed is a JSON object")
    try:
        return kind.model_validate({name: item for name, item in value.items() if name not in IGNORED})
    except ValidationError as error:
        raise _invalid(error, kind) from None


async def _bounded(request: Request) -> bytes:
    too_large = RequestError(
        f"the body has more than {MAX_BODY_BYTES:,} bytes; send less at once", status=413, code="body_too_large"
    )
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > MAX_BODY_BYTES:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _json(data: bytes) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refused)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return value
        level = inner
    raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(f"the body nests deeper than {MAX_DEPTH} levels; send a flatter one")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object names a key twice")
    return value


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _invalid(error: ValidationError, kind: type[BaseModel]) -> RequestError:
    """The first fault of a body, by its field. Unions report one fault for each member; the deepest says most."""
    faults = error.errors(include_url=False, include_context=False)
    top = faults[0]["loc"][:1]
    found = max((f for f in faults if f["loc"][:1] == top), key=lambda f: len(f["loc"]))
    param = ".".join(str(step) for step in found["loc"] if not _is_union_member(step))
    if found["type"] == "extra_forbidden":
        where = f"in {kind.__name__.removesuffix('Body').lower()} requests" if len(found["loc"]) == 1 else "here"
        known = ", ".join(sorted(kind.model_fields)) if len(found["loc"]) == 1 else ""
        also = f"; known: {known}" if known else ""
        return RequestError(f"unknown field {param!r} {where}{also}", param=param, code="unknown_field")
    if found["type"] == "missing":
        return RequestError(f"the field {param!r} is missing", param=param)
    message = found["msg"]
    return RequestError(
        f"{param}={_brief(found['input'])}: {message[:1].lower()}{message[1:]}", param=param, code="invalid_value"
    )


def _is_union_member(step: int | str) -> bool:
    return isinstance(step, str) and (
        step in {"str", "TextPart", "BlankPart"} or step.startswith(("list[", "constrained-"))
    )


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
