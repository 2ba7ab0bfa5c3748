"""Guided output: the body fields that ask a server for it, and the check on this side, whatever the server promises."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from llmprog.backends.remote.failures import decode_json
from llmprog.backends.remote.profiles import GuidedKind, GuidedStyle, Profile, built_in_profiles
from llmprog.errors import CapabilityError, OptionError
from llmprog.types import Choices, Guided, JsonSchema, Regex, guided_kind

_SCHEMA_NAME = "reply"
_LONGEST: Final = 8_000_000  # characters of a text that is checked at all
_REGEX_TIMEOUT_S: Final = 0.25  # the caller waits for it
_SHOWN: Final = 80


def guided_fields(guided: Guided, profile: Profile, *, backend: str) -> dict[str, Any]:
    """The body fields that ask an endpoint of this profile for ``guided``.

    Raises:
        CapabilityError: The profile does not offer this kind; the message names what does.
        OptionError: The schema is no JSON object.
    """
    kind = cast("GuidedKind", guided_kind(guided))
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


def violation(text: str, guided: Guided) -> str | None:
    """Why ``text`` is not what ``guided`` asks for; ``None`` where it is.

    Whatever the text is, the check ends in bounded time and memory.

    Raises:
        OptionError: The schema or the pattern itself is not valid.
    """
    if isinstance(guided, Choices):
        return None if text in guided.options else f"{_brief(text)} is none of the {len(guided.options)} choices"
    if len(text) > _LONGEST:
        return f"{_brief(text)}… is {len(text)} characters long; at most {_LONGEST} are checked"
    if isinstance(guided, Regex):
        return _regex_violation(text, guided.pattern)
    try:
        value = decode_json(text)
    except ValueError as error:
        return f"{_brief(text)} cannot be read as JSON: {error!s:.200}"
    return _schema_violation(value, guided.schema)


def _brief(text: str) -> str:
    return repr(text[:_SHOWN])


def _regex_violation(text: str, pattern: str) -> str | None:
    import regex

    try:
        found = regex.fullmatch(pattern, text, timeout=_REGEX_TIMEOUT_S)
    except TimeoutError:
        return f"{_brief(text)}: matching it against {pattern!r} took over {_REGEX_TIMEOUT_S:g} s"
    except regex.error as error:
        raise OptionError(f"Regex({pattern!r}): not a regular expression: {error}") from error
    return None if found else f"{_brief(text)} does not match {pattern!r} as a whole"


def _schema_violation(value: Any, schema: str) -> str | None:
    import regex
    from referencing.exceptions import Unresolvable

    try:
        error = next(iter(_validator(schema).iter_errors(value)), None)
    except RecursionError:
        return "it nests too deeply to be checked against the schema"
    except TimeoutError:
        return f"matching a pattern of the schema took over {_REGEX_TIMEOUT_S:g} s"
    except regex.error as bad_pattern:
        raise OptionError(f"JsonSchema({schema[:_SHOWN]!r}): a pattern is not valid: {bad_pattern}") from bad_pattern
    except Unresolvable as unresolvable:
        raise OptionError(
            f"JsonSchema({schema[:_SHOWN]!r}): {unresolvable!s:.200}; a schema must hold all that it refers to"
        ) from unresolvable
    if error is None:
        return None
    where = "".join(f"[{step!r}]" for step in error.absolute_path)
    return f"at {where[:_SHOWN] or 'the top'}: {error.message:.300}"


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """A validator that fetches nothing and whose patterns cannot run for ever."""
    import regex
    from jsonschema import ValidationError
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, extend, validator_for
    from referencing import Registry

    def pattern(validator: Any, expression: str, instance: Any, _: Any) -> Iterator[ValidationError]:
        if validator.is_type(instance, "string") and not regex.search(expression, instance, timeout=_REGEX_TIMEOUT_S):
            yield ValidationError(f"{_brief(instance)} does not match {expression!r}")

    parsed = _schema(JsonSchema(schema))
    kind = validator_for(parsed, default=Draft202012Validator)
    try:
        kind.check_schema(parsed)
        safe: Any = extend(kind, {"pattern": pattern})  # type: ignore[no-untyped-call]  # not annotated in its stubs
        return safe(parsed, registry=Registry())
    except (SchemaError, RecursionError) as error:
        reason = error.message if isinstance(error, SchemaError) else "it nests too deeply"
        raise OptionError(f"JsonSchema({schema[:_SHOWN]!r}): not a JSON schema: {reason:.200}") from error
