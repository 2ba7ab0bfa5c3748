"""What a journal keeps, as bytes: JSON in UTF-8, compressed where that is worth it, without secrets."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from llmprog.errors import OptionError, StoreError
from llmprog.json_values import (
    completion_from_json,
    logprobs_from_json,
    logprobs_to_json,
    prompt_from_json,
    prompt_to_json,
    request_from_json,
    request_to_json,
    without_secrets,
)
from llmprog.redaction import redact
from llmprog.types import Completion, Logprobs, Request, SamplingParams, Scoring, Template

_COMPRESSED_FROM = 1024  # below it compressing costs more time than it saves in writing
_KEPT_PARAMS = 256
_LARGEST = 1 << 29  # what a value may be once unpacked: a file from elsewhere may hold bytes that unpack to terabytes

# Not ASCII only: two halves of a surrogate pair, apart in a text, would be read back as one character.
_to_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(value: Any) -> bytes:
    """JSON values, already without secrets, as bytes."""
    return _pack(_to_text(value))


def _pack(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return data if len(data) < _COMPRESSED_FROM else zlib.compress(data, 1)


def decode(data: bytes) -> Any:
    """The JSON values that ``encode`` wrote.

    Raises:
        StoreError: These are not such bytes.
    """
    try:
        if data[:1] == b"x":  # how a zlib stream begins, and no JSON text
            unpacking = zlib.decompressobj()
            data = unpacking.decompress(data, _LARGEST)
            if not unpacking.eof:
                raise StoreError(f"a value of a run is cut off, or larger than {_LARGEST:,} bytes once unpacked")
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError, zlib.error) as error:
        raise StoreError(f"a value of a run cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def plain_text(text: str) -> str:
    """``text`` as a database's text columns can hold it, without secrets: no NUL, no lone surrogates."""
    return redact(text).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


@contextlib.contextmanager
def _read_as(what: str) -> Iterator[None]:
    """Values of another form than ours become an error of ours: the file may come from anywhere."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OptionError) as error:
        raise StoreError(f"what should be {what} is not: {type(error).__name__}: {str(error)[:200]}") from error


class QuestionEncoder:
    """Turns questions into bytes; parameters, which all calls of a node share, it turns into JSON once."""

    def __init__(self) -> None:
        self._params: dict[int, tuple[SamplingParams, str]] = {}

    def encode(self, question: Request | Scoring) -> bytes:
        """What was asked, without the numbers of its samples."""
        if isinstance(question, Scoring):
            value = {"prompt": prompt_to_json(question.prompt), "continuations": list(question.continuations)}
            return encode(without_secrets(value))
        if isinstance(question.prompt, Template):
            return encode(without_secrets(request_to_json(question)))
        prompt = _to_text(without_secrets(prompt_to_json(question.prompt)))
        return _pack(f'{prompt[:-1]},"params":{self._params_text(question)}}}')

    def _params_text(self, question: Request) -> str:
        params = question.params
        known = self._params.get(id(params))
        if known is None:
            if len(self._params) >= _KEPT_PARAMS:
                self._params.clear()
            text = _to_text(without_secrets(request_to_json(question)["params"]))
            known = self._params[id(params)] = params, text  # kept, so that no other object gets its address
        return known[1]


def question_from_bytes(data: bytes, first_sample: int, num_samples: int) -> Request | Scoring:
    """What was asked by a call for these samples.

    Raises:
        StoreError: These are not the bytes of a question.
    """
    with _read_as("a question"):
        value = decode(data)
        if "continuations" in value:
            return Scoring(prompt_from_json(value["prompt"]), tuple(value["continuations"]))
        return request_from_json(value | {"num_samples": num_samples, "first_sample": first_sample})


def completions_to_bytes(completions: Sequence[Completion]) -> bytes:
    """Completions, only what differs from the default written out: this is done for every call of a run."""
    values = []
    for c in completions:
        u = c.usage
        usage: dict[str, Any] = {"calls": u.calls, "prompt_tokens": u.prompt_tokens}
        usage |= {"completion_tokens": u.completion_tokens, "usd": u.usd}
        if u.cached_tokens:
            usage["cached_tokens"] = u.cached_tokens
        if u.reasoning_tokens:
            usage["reasoning_tokens"] = u.reasoning_tokens
        if u.cache_hits:
            usage["cache_hits"] = u.cache_hits
        value: dict[str, Any] = {"text": redact(c.text), "usage": usage}
        if c.finish_reason != "stop":
            value["finish_reason"] = c.finish_reason
        if c.reasoning is not None:
            value["reasoning"] = redact(c.reasoning)
        if c.model is not None:
            value["model"] = redact(c.model)
        if c.violation is not None:
            value["violation"] = redact(c.violation)
        if c.logprobs is not None:
            value["logprobs"] = logprobs_to_json(c.logprobs)
        values.append(value)
    return encode(values)


def completions_from_bytes(data: bytes) -> list[Completion]:
    """The completions that ``completions_to_bytes`` wrote.

    Raises:
        StoreError: These are not such bytes.
    """
    with _read_as("completions"):
        found = [completion_from_json({"logprobs": None} | value) for value in decode(data)]
        if not all(isinstance(c.text, str) and isinstance(c.reasoning, str | None) for c in found):
            raise TypeError("a text is not a text")
    return found


def scores_to_bytes(scores: Sequence[Logprobs]) -> bytes:
    """Likelihoods as bytes."""
    return encode([logprobs_to_json(score) for score in scores])


def scores_from_bytes(data: bytes) -> list[Logprobs]:
    """The likelihoods that ``scores_to_bytes`` wrote.

    Raises:
        StoreError: These are not such bytes.
    """
    with _read_as("likelihoods"):
        return [logprobs_from_json(value) for value in decode(data)]


def json_to_bytes(value: Any) -> bytes:
    """Any JSON value as bytes, its secrets blacked out."""
    return encode(without_secrets(value))


def json_object(data: bytes | None) -> dict[str, Any]:
    """The JSON object in ``data``; empty where there is none."""
    return cast("dict[str, Any]", decode(data)) if data else {}
