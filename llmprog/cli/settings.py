"""``--set KEY=VALUE``: settings given as text, and whom each is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmprog.programs.catalog import ProgramEntry


def assign(
    entry: ProgramEntry, settings: Sequence[str], backend: str | None, backend_options: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings by whom they are for, the program first; an unknown key lists the known ones."""
    from llmprog.errors import OptionError, meant
    from llmprog.programs.catalog import parse_setting

    for_program: dict[str, Any] = {}
    for_backend: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting!r}: expected KEY=VALUE, such as --set beam_width=3")
        if key in entry.parameters:
            for_program[key] = parse_setting(entry.parameters[key], value)
        elif key in backend_options:
            for_backend[key] = value
        else:
            known = f"{entry.name}: {', '.join(entry.parameters) or 'none'}"
            if backend is not None:
                known += f"; {backend}: {', '.join(backend_options) or 'none'}"
            guess = meant(key, [*entry.parameters, *backend_options])
            raise OptionError(f"--set: unknown key {key!r}{guess}; known keys of {known}")
    return for_program, for_backend
