"""Recordings: what was asked of backends and what they answered, one JSON line each.

A recording begins with a header line. Then, in the order in which calls came back:

* ``{"backend": ID, "capabilities": {…}}`` for each backend that is recorded;
* ``{"kind": "generate" | "infill", "backend": ID, "request": {…}, "completions": [{…}, …]}``;
* ``{"kind": "score", "backend": ID, "prompt": {…}, "continuations": [TEXT, …], "scores": [{…}, …]}``.

Lines are ASCII, every parameter is written out, and nothing says when, where or for which node a call was made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmprog.backends.base import Backend, Capabilities, StreamingBackend
from llmprog.backends.bounds import PricedBackend
from llmprog.errors import BackendError, OptionError
from llmprog.json_values import (
    completion_to_json,
    logprobs_to_json,
    prompt_to_json,
    request_to_json,
    score_digest,
    without_secrets,
)
from llmprog.redaction import redact
from llmprog.types import (
    Completion,
    Delta,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Template,
)

FORMAT = "llmprog-recording"
VERSION = 1

_MAX_HEADER = 65_536
# JSON joins the escapes of two lone surrogates to one character; such a line is written unescaped.
_SPLIT_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class Recorder:
    """A recording to append to: created if it does not exist, continued if it does.

    Every line is one write to a file opened for appending, so several recorders may share a file, and a process that
    is killed leaves at most one torn line, which readers skip. Secrets known to ``llmprog.redaction`` are blacked out.

    Args:
        path: The file.

    Raises:
        OptionError: The file cannot be written, or holds something that is no recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._is_torn = False
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._file: int | None = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise OptionError(
                f"cannot record to {self.path!r}: {error.strerror}; give a file in a folder that can be written"
            ) from error
        try:
            self._continue_or_begin(self._file)
        except BaseException:
            self.close()
            raise

    def _continue_or_begin(self, file: int) -> None:
        size = os.fstat(file).st_size
        if not size:
            self.write({"format": FORMAT, "version": VERSION})
            return
        os.lseek(file, 0, os.SEEK_SET)
        check_header(os.read(file, _MAX_HEADER).partition(b"\n")[0], self.path)
        os.lseek(file, size - 1, os.SEEK_SET)
        self._is_torn = os.read(file, 1) != b"\n"

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line; ``entry`` consists of JSON values.

        Raises:
            OptionError: The recorder is closed, or the file cannot be written, as on a full disk.
        """
        if self._file is None:
            raise OptionError(f"the recording {self.path!r} is closed; open a new Recorder to go on with it")
        line = json.dumps(entry)
        if "\\ud" in line and _SPLIT_PAIR.search(unescaped := json.dumps(entry, ensure_ascii=False)):
            line = unescaped
        # A line that an earlier writer did not finish is ended first, so that this one stands alone.
        data = ("\n" if self._is_torn else "").encode() + line.encode("utf-8", "surrogatepass") + b"\n"
        try:
            written = os.write(self._file, data)
        except OSError as error:
            raise OptionError(f"cannot record to {self.path!r}: {error.strerror}") from error
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OptionError(f"cannot record to {self.path!r}: only {written} of {len(data)} bytes could be written")

    def close(self) -> None:
        """End the recording; doing it twice is harmless."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordingBackend:
    """A backend whose every answered call is recorded; it is otherwise the backend it wraps, id included.

    A call that fails or is cancelled is not recorded. An answer is written before it is returned, so a run whose
    recording cannot be written fails. Closing this backend closes the one it wraps; the recorder stays open.

    Args:
        backend: Whose calls are recorded.
        recorder: Where to; several backends may share one.
    """

    def __init__(self, backend: Backend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder
        self._described: Capabilities | None = None
        self._describe()

    @property
    def id(self) -> str:
        """The wrapped backend's id."""
        return self._backend.id

    @property
    def capabilities(self) -> Capabilities:
        """The wrapped backend's capabilities."""
        return self._backend.capabilities

    async def generate(self, request: Request) -> Sequence[Completion]:
        """The wrapped backend's completions."""
        completions = await self._backend.generate(request)
        self._record("generate", request, completions)
        return completions

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        """The wrapped backend's stream; of a backend that does not stream, each completion in one piece."""
        if isinstance(self._backend, StreamingBackend) and self.capabilities.stream != "none":
            completions = await self._backend.stream(request, on_delta)
        else:
            completions = await self._backend.generate(request)
            tell_whole(completions, on_delta)
        self._record("generate", request, completions)
        return completions

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The wrapped backend's scores."""
        scores = await self._backend.score(prompt, continuations)
        asked = {"prompt": prompt_to_json(prompt), "continuations": list(continuations)}
        entry: dict[str, Any] = {"kind": "score", "backend": redact(self.id), **without_secrets(asked)}
        entry["scores"] = [logprobs_to_json(score) for score in scores]
        if any(asked[name] != entry[name] for name in asked):
            entry["digests"] = [score_digest(prompt, text) for text in continuations]
        self._write(entry)
        return scores

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """The wrapped backend's completions."""
        completions = await self._backend.infill(template, params, num_samples)
        self._record("infill", Request(prompt=template, params=params, num_samples=num_samples), completions)
        return completions

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The wrapped backend's price."""
        backend = self._backend
        return backend.most_usd(prompt_tokens, completion_tokens) if isinstance(backend, PricedBackend) else None

    async def aclose(self) -> None:
        """Close the wrapped backend."""
        await self._backend.aclose()

    def _record(self, kind: str, request: Request, completions: Sequence[Completion]) -> None:
        asked = request_to_json(request)
        entry: dict[str, Any] = {"kind": kind, "backend": redact(self.id), "request": without_secrets(asked)}
        if entry["request"] != asked:
            entry["digest"] = request.digest()  # by which a request that holds the secret is still found
        # What comes beyond the samples asked for has no index of its own.
        entry["completions"] = [completion_to_json(c) for c in completions[: request.num_samples]]
        self._write(entry)

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._describe()
            self._recorder.write(entry)
        except OptionError as error:
            raise BackendError(
                f"its answer is lost, since it could not be recorded: {error}", backend=self.id
            ) from error

    def _describe(self) -> None:
        """Capabilities are written when they are first known, and again when they turn out to be others."""
        found = self.capabilities
        if found != self._described:
            self._recorder.write({"backend": redact(self.id), "capabilities": _capabilities_to_json(found)})
            self._described = found


def tell_whole(completions: Sequence[Completion], on_delta: Callable[[Delta], None], *, replaces: bool = False) -> None:
    """Hand out finished completions as deltas: the reasoning, if any, then the text, in one piece each."""
    for sample, completion in enumerate(completions):
        if completion.reasoning:
            on_delta(Delta(sample=sample, text=completion.reasoning, replaces=replaces, is_reasoning=True))
        on_delta(Delta(sample=sample, text=completion.text, replaces=replaces))


def check_header(line: bytes, path: str) -> None:
    """Refuse a first line that does not begin a recording this version reads.

    Raises:
        OptionError: It does not.
    """
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise OptionError(f"{path!r} is no recording: it begins with {line[:60]!r}; give a file that --record made")
    if header.get("version") != VERSION:
        raise OptionError(
            f"{path!r} is a recording of version {header.get('version')!r:.40}; this llmprog reads version {VERSION}"
        )


def _capabilities_to_json(value: Capabilities) -> dict[str, Any]:
    return asdict(value) | {"guided": sorted(value.guided)}


def capabilities_from_json(value: Mapping[str, Any]) -> Capabilities:
    """The capabilities that a recording holds."""
    return Capabilities(**(dict(value) | {"guided": frozenset(value["guided"])}))
