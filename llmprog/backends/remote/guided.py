"""Guided output on the wire: the body fields that ask a server for it.

What a server makes of them is checked on this side, whatever it promises: see ``violation``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmprog.backends.remote.profiles import GuidedKind, GuidedStyle, Profile, built_in_profiles
from llmprog.errors import CapabilityError, OptionError
from llmprog.types import Guided, JsonSchema, Regex

_SCHEMA_NAME = "reply"


def kind_of(guided: Guided) -> GuidedKind:
    """Which kind of guided output this is, as profiles name it."""
    if isinstance(guided, JsonSchema):
        return "json"
    return "regex" if isinstance(guided, Regex) else "choice"


def guided_fields(guided: Guided, profile: Profile, *, backend: str) -> dict[str, Any]:
    """The body fields that ask an endpoint of this profile for ``guided``.

    Raises:
        CapabilityError: The profile does not offer this kind; the message names what does.
        OptionError: The schema is no JSON object.
    """
    kind = kind_of(guided)
    style = profile.guided.get(kind)
    if style is None:
        offered = ", ".join(sorted(profile.guided)) or "none"
        others = ", ".join(name for name, other in built_in_profiles().items() if kind in other.guided)
        raise CapabilityError(
            f"guided output of kind {kind!r} is not offered by profile {profile.name!r}; it offers: {offered}; "
            f"profiles with {kind!r}: {others}; or leave params.guided unset and check the text in the program",
            backend=backend,
        )
    if isinstance(guided, JsonSchema):
        return _json_fields(_schema(guided), style)
    if isinstance(guided, Regex):
        return (
            {"structured_outputs": {"regex": guided.pattern}}
            if style == "structured_outputs"
            else {"regex": guided.pattern}
        )
    return _choice_fields(guided.options, style)


def _schema(guided: JsonSchema) -> dict[str, Any]:
    try:
        schema = json.loads(guided.schema)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"JsonSchema({guided.schema[:80]!r}): not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise OptionError(f"JsonSchema({guided.schema[:80]!r}): a schema is a JSON object; see JsonSchema.of")
    return schema


def _json_fields(schema: dict[str, Any], style: GuidedStyle) -> dict[str, Any]:
    if style == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    if style == "output_config":
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    if style == "gemini_schema":
        return {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": schema}}
    named = {"name": _SCHEMA_NAME, "schema": schema, "strict": _is_closed(schema)}
    if style == "text_format":
        return {"text": {"format": {"type": "json_schema", **named}}}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _is_closed(schema: Any) -> bool:
    """Whether every object in the schema names all its fields: what providers ask of a strict schema."""
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, Mapping):
            properties = part.get("properties")
            if part.get("type") == "object" or isinstance(properties, Mapping):
                names = set(properties) if isinstance(properties, Mapping) else set()
                if part.get("additionalProperties") is not False or names - set(part.get("required") or ()):
                    return False
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)
    return True


def _choice_fields(options: Sequence[str], style: GuidedStyle) -> dict[str, Any]:
    if style == "structured_outputs":
        return {"structured_outputs": {"choice": list(options)}}
    if style == "llama_grammar":
        return {"grammar": "root ::= " + " | ".join(_gbnf_literal(option) for option in options)}
    if style == "gemini_schema":
        schema = {"type": "STRING", "enum": list(options)}
        return {"generationConfig": {"responseMimeType": "text/x.enum", "responseSchema": schema}}
    return {"regex": "(" + "|".join(_regex_literal(option) for option in options) + ")"}


def _regex_literal(text: str) -> str:
    """``text`` as a regex that engines of every dialect read the same way; ``re.escape`` also escapes spaces."""
    escapes = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return "".join(escapes.get(c, "\\" + c if c in r"\.^$*+?{}[]|()" else c) for c in text)


def _gbnf_literal(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, f"\\x{ord(c):02X}" if ord(c) < 0x20 else c) for c in text) + '"'
