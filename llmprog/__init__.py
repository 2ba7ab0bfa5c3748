"""llmprog: LLM programs that search a graph of thoughts.

Importing this package loads the standard library only; each public name is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmprog.compile import CompiledProgram as CompiledProgram
    from llmprog.compile import compile_program as compile_program
    from llmprog.jobs.job import amap as amap
    from llmprog.jobs.job import map as map  # noqa: A004 - it maps a program over rows
    from llmprog.nodes import Checker as Checker
    from llmprog.nodes import Generator as Generator
    from llmprog.nodes import Model as Model
    from llmprog.nodes import Verdict as Verdict
    from llmprog.nodes import checker as checker
    from llmprog.nodes import generator as generator
    from llmprog.program import Program as Program
    from llmprog.runner import arun as arun
    from llmprog.runner import run as run
    from llmprog.running.result import Result as Result
    from llmprog.runs.budget import Budget as Budget
    from llmprog.runs.store import open_store as open_store
    from llmprog.types import Blank as Blank
    from llmprog.types import Choices as Choices
    from llmprog.types import Completion as Completion
    from llmprog.types import JsonSchema as JsonSchema
    from llmprog.types import Message as Message
    from llmprog.types import Prompt as Prompt
    from llmprog.types import Regex as Regex
    from llmprog.types import SamplingParams as SamplingParams
    from llmprog.types import Template as Template
    from llmprog.types import Usage as Usage

__version__ = "0.1.0"

_HOMES = {
    "llmprog.compile": ("CompiledProgram", "compile_program"),
    "llmprog.jobs.job": ("amap", "map"),
    "llmprog.nodes": ("Checker", "Generator", "Model", "Verdict", "checker", "generator"),
    "llmprog.program": ("Program",),
    "llmprog.running.result": ("Result",),
    "llmprog.runner": ("arun", "run"),
    "llmprog.runs.budget": ("Budget",),
    "llmprog.runs.store": ("open_store",),
    "llmprog.types": (
        *("Blank", "Choices", "Completion", "JsonSchema", "Message", "Prompt", "Regex", "SamplingParams", "Template"),
        "Usage",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "__version__"]  # noqa: PLE0604 - every entry is a name


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'llmprog' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
