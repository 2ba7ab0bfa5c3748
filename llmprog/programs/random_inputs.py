"""Inputs that a program's package makes at random, such as puzzles: the entry-point group ``llmprog.inputs``."""

from __future__ import annotations

import inspect
import random
import typing
from collections.abc import Callable, Sequence
from importlib import metadata

from llmprog.errors import OptionError
from llmprog.programs.catalog import Parameter, parse_setting, section_helps

GROUP = "llmprog.inputs"
_RNG = "rng"


def random_inputs(program: str, settings: Sequence[str] = ()) -> Callable[[random.Random], str]:
    """A function that makes an input of a program from a ``random.Random``: equal states of it give equal inputs.

    What is registered for the program under ``llmprog.inputs`` is a function with a parameter ``rng``, and others
    that are set by name; the input is the text of what it returns.

    Args:
        program: Its name.
        settings: Such as ``size=4``.

    Raises:
        OptionError: Nothing is registered for it, or a setting is unknown, has no allowed value, or is missing.
    """
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if program not in found:
        raise OptionError(
            f"there are no random inputs for program {program!r}, only for {', '.join(sorted(found)) or 'none'}; give "
            "a file of inputs"
        )
    make = found[program].load()
    parameters = _parameters(make)
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in parameters:
            raise OptionError(
                f"random inputs of {program}: {setting!r}; allowed is KEY=VALUE with {', '.join(parameters)}"
            )
        values[name] = parse_setting(parameters[name], text)
    missing = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty and name not in values]
    if missing:
        needed = ", ".join(f"{name} ({parameters[name].help.rstrip('.')})" for name in missing)
        raise OptionError(f"random inputs of {program} need {needed}; give it as --random {missing[0]}=4, for one")
    return lambda rng: str(make(**{_RNG: rng}, **values))


def _parameters(make: Callable[..., object]) -> dict[str, Parameter]:
    helps = section_helps(inspect.getdoc(make) or "", "Args")
    hints = typing.get_type_hints(make)
    return {
        p.name: Parameter(name=p.name, annotation=hints.get(p.name, str), default=p.default, help=helps.get(p.name, ""))
        for p in inspect.signature(make).parameters.values()
        if p.name != _RNG
    }
