"""What a run is a run of: enough to begin it again, and to see whether it is still the same."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from llmprog.runs.encoding import decode, json_to_bytes, plain_text

Kind = Literal["run", "map"]

_ID_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # without those that are taken for others

INFO_COLUMNS = "kind, program, program_hash, program_text, job, input, config, versions"


def _versions() -> Mapping[str, str]:
    return {"llmprog": importlib.metadata.version("llmprog"), "python": platform.python_version()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run is a run of.

    Attributes:
        kind: ``run`` (one input) or ``map`` (a job with many rows).
        program: What finds the program again, else its name.
        program_hash: Tells programs apart.
        program_text: The program's declaration in readable form, for showing what changed.
        input: What the program was given, as JSON values.
        config: How it was run, as JSON values: seed, backend, settings.
        key: The same for two commands that are the same job; ``None`` where a run is never looked for.
        versions: Of llmprog and of Python.
    """

    kind: Kind
    program: str
    program_hash: str
    program_text: str
    input: Any
    config: Mapping[str, Any]
    key: str | None = None
    versions: Mapping[str, str] = field(default_factory=_versions)

    def to_row(self) -> tuple[Any, ...]:
        """The values of ``INFO_COLUMNS``."""
        return (
            self.kind,
            plain_text(self.program),
            self.program_hash,
            plain_text(self.program_text),
            self.key,
            json_to_bytes(self.input),
            json_to_bytes(dict(self.config)),
            json_to_bytes(dict(self.versions)),
        )

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> RunInfo:
        """From the values of ``INFO_COLUMNS``."""
        kind, program, program_hash, program_text, key, given, config, versions = row
        return cls(
            kind=cast("Kind", kind),
            program=program,
            program_hash=program_hash,
            program_text=program_text,
            key=key,
            input=decode(given),
            config=decode(config),
            versions=decode(versions),
        )


def new_run_id(now: float) -> str:
    """A short id that sorts by time, to a thousandth of a second, such as ``20261122-064501-k3f9``."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    high, low = divmod(moment.microsecond * len(_ID_LETTERS) ** 2 // 1_000_000, len(_ID_LETTERS))
    rest = "".join(random.SystemRandom().choices(_ID_LETTERS, k=2))
    return f"{moment:%Y%m%d-%H%M%S}-{_ID_LETTERS[high]}{_ID_LETTERS[low]}{rest}"
