"""What ``llmprog doctor`` finds out: which backends answer, what they can do, what to fix, what could be installed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from importlib import metadata

from llmprog.backends import registry
from llmprog.backends.base import Backend
from llmprog.backends.registry import BackendInfo, module_of, open_backend, parse_id, schemes, with_options
from llmprog.backends.remote.backend import RemoteBackend
from llmprog.errors import LLMProgError
from llmprog.types import Prompt, Request, SamplingParams

_MAX_TOKENS = 16
_FOR_DEVELOPERS = ("dev", "docs", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What one backend was found to be.

    Attributes:
        id: Its id.
        ok: Whether it answered.
        found: What it can do, as it showed, one short phrase each.
        fix: What to do about what is wrong; empty where nothing is.
        latency_ms: Milliseconds until its call was answered; ``None`` where it was not.
    """

    id: str
    ok: bool
    found: tuple[str, ...] = ()
    fix: str = ""
    latency_ms: float | None = None


def configured() -> list[BackendInfo]:
    """The backends that could be called now: nothing is missing, and the id needs no filling in."""
    infos = [info for scheme in sorted(schemes()) for info in module_of(scheme).list_backends()]
    return [info for info in infos if not info.missing and not is_pattern(info.id)]


def is_pattern(backend_id: str) -> bool:
    """Whether an id has words in capitals that the user is to fill in."""
    return any(word in backend_id for word in ("MODEL", "HOST", "FILE", "PATH"))


def missing_extras() -> dict[str, tuple[str, ...]]:
    """The extras of which something is not installed, each with the packages it lacks, by name."""
    missing: dict[str, tuple[str, ...]] = {}
    for requirement in metadata.requires("llmprog") or ():
        package = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == [\"'](\w+)[\"']", requirement)
        if package and extra and extra[1] not in _FOR_DEVELOPERS and not _is_installed(package[0]):
            missing[extra[1]] = (*missing.get(extra[1], ()), package[0])
    return dict(sorted(missing.items()))


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


async def examine(backend_id: str) -> Diagnosis:
    """Open a backend, call it once, cheaply, and say what came of it. Never raises for what is wrong with it."""
    try:
        options = registry.describe_options(backend_id)
        # A diagnosis does not wait for an endpoint to recover.
        once = {"max_attempts": "1"} if "max_attempts" in options else {}
        backend = open_backend(backend_id if "max_attempts=" in backend_id else with_options(backend_id, once))
    except LLMProgError as error:
        return Diagnosis(id=backend_id, ok=False, fix=str(error))
    try:
        prompt = Prompt.from_text(_probe_text(backend_id))
        if isinstance(backend, RemoteBackend):
            return await _examine_remote(backend_id, backend, prompt)
        return await _examine_other(backend_id, backend, prompt)
    except LLMProgError as error:
        return Diagnosis(id=backend_id, ok=False, fix=str(error))
    finally:
        await backend.aclose()


def _probe_text(backend_id: str) -> str:
    infos = module_of(parse_id(backend_id)[0]).list_backends()
    exact = [info for info in infos if info.id == backend_id.partition("?")[0]]
    return next(iter([*exact, *infos, BackendInfo(id=backend_id, summary="")])).probe


async def _examine_remote(backend_id: str, backend: RemoteBackend, prompt: Prompt) -> Diagnosis:
    probe = await backend.probe(prompt, _MAX_TOKENS)
    found = [f"model {probe.model}" if probe.model else "model not named"]
    if probe.num_asked > 1:
        honoured = probe.num_returned == probe.num_asked
        found.append("n honoured" if honoured else f"n ignored: {probe.num_returned} of {probe.num_asked} came")
    elif backend.capabilities.n:
        found.append("n refused")
    else:
        found.append("one sample per call")
    found.append("logprobs" if probe.has_logprobs else "no logprobs")
    if probe.num_pieces:
        found.append(f"streams ({probe.num_pieces} pieces, the first after {1000 * (probe.first_piece_s or 0):.0f} ms)")
    else:
        found.append("not streamed")
    found.append("usage" if probe.has_usage else "no usage")
    found.append("price unknown" if probe.usd is None else f"${probe.usd:.6f}")
    fixes = [f"the full call was refused: {probe.refusal}"] if probe.refusal else []
    if probe.usd is None and probe.has_usage:
        fixes.append("name a file of prices with ?prices=FILE to have costs counted")
    return Diagnosis(id=backend_id, ok=True, found=tuple(found), fix="; ".join(fixes), latency_ms=1000 * probe.total_s)


async def _examine_other(backend_id: str, backend: Backend, prompt: Prompt) -> Diagnosis:
    can = backend.capabilities
    count = 2 if can.n else 1
    begun = time.monotonic()
    completions = await backend.generate(
        Request(prompt=prompt, params=SamplingParams(max_tokens=_MAX_TOKENS), num_samples=count)
    )
    latency_ms = 1000 * (time.monotonic() - begun)
    names = [name for name in ("n", "logprobs", "score", "infill", "seed") if getattr(can, name)]
    complete = len(completions) == count
    fix = "" if complete else f"it returned {len(completions)} of {count} samples"
    return Diagnosis(id=backend_id, ok=complete, found=tuple(names), fix=fix, latency_ms=latency_ms)
