"""What each provider and server understands, as data: ``profiles.toml`` beside this module.

A profile says which wire protocol an endpoint speaks and where it deviates from it, so that the protocol modules hold
no provider's name.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from llmprog.errors import OptionError

ProtocolName = Literal["openai_chat", "openai_completions", "openai_responses", "anthropic_messages", "gemini"]
Auth = Literal["bearer", "x-api-key", "x-goog-api-key", "none"]
Prefill = Literal["assistant", "continue_final_message", "prefix", "none"]
GuidedKind = Literal["json", "regex", "choices"]
GuidedStyle = Literal[
    "response_format", "structured_outputs", "sglang", "llama_grammar", "text_format", "output_config", "gemini_schema"
]
Score = Literal["prompt_logprobs", "echo", "texts", "none"]
Infill = Literal["fim", "edit", "template", "none"]
StreamStyle = Literal["append", "replace"]
ReasoningStyle = Literal["reasoning_effort", "reasoning.effort", "output_config.effort", "thinking_level", "none"]
Cache = Literal["cache_prompt", "cache_control", "none"]


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one provider or server is spoken to.

    Attributes:
        name: Name of the profile.
        summary: One line on what it is for.
        protocol: The wire protocol.
        base_url: Where its endpoint is; empty where the user gives it.
        key_env: Environment variables that may hold the key; the first that is set wins. Empty: no key is needed.
        auth: The header that carries the key.
        headers: Headers sent with every request; none holds a key.
        honours_n: Whether one request may ask for several completions.
        max_n: Most completions asked for at once.
        max_tokens_field: Name of the field that bounds a completion.
        max_stop: Most stop texts one request may hold; 0: none.
        supports_seed: Whether a seed is sent. It fixes the draws as far as the server keeps them apart from what
            else it computes at the time.
        supports_top_k: Whether ``top_k`` is sent.
        supports_min_p: Whether ``min_p`` is sent.
        supports_logprobs: Whether token log-probabilities can be asked for.
        sends_neutral: Whether sampling parameters are sent that change nothing (``top_p`` 1, ``top_k`` off,
            ``min_p`` 0), because the server's own defaults are not neutral.
        top_k_off: What ``top_k`` is sent as to keep all tokens: servers differ in whether 0 or -1 says so.
        omit: Body fields that are never sent, for a model that refuses them.
        prefill: How the beginning of the reply is given.
        prefill_path: Path used instead of the usual one where a reply's beginning is given.
        guided: How each kind of guided output is asked for; a kind that is absent is not to be had.
        score: How the likelihood of a given text is read: of the ``prompt_logprobs`` of a reply, of an ``echo`` of the
            prompt, or asked for as that of ``texts``, as our own server has it.
        infill: How blanks are filled: ``fim`` one blank, ``edit`` also several, ``template`` several of given length.
        infill_model: Model that fills blanks; empty: the one in use.
        fim_path: Path for one blank between two texts, or for a template.
        edit_path: Path for several blanks.
        stream_style: Whether a streamed piece follows the text so far or replaces it.
        stream_options: Body fields added to streamed requests.
        reasoning: How the effort of a reasoning model is set.
        reasoning_efforts: The efforts there are, lowest first.
        first_byte_s: Seconds until the first byte of an answer, which for a plain answer is the whole generation.
        start_concurrency: Calls in flight at the beginning.
        cache: How a shared prompt prefix is marked for the provider's cache.
        extra_body: Fields added to every request's body; they win over the protocol's own.
    """

    name: str
    summary: str
    protocol: ProtocolName
    base_url: str = ""
    key_env: tuple[str, ...] = ()
    auth: Auth = "bearer"
    headers: Mapping[str, str] = field(default_factory=_nothing)
    honours_n: bool = False
    max_n: int = 20
    max_tokens_field: str = "max_tokens"
    max_stop: int = 4
    supports_seed: bool = False
    supports_top_k: bool = False
    supports_min_p: bool = False
    supports_logprobs: bool = False
    sends_neutral: bool = False
    top_k_off: int = -1
    omit: tuple[str, ...] = ()
    prefill: Prefill = "none"
    prefill_path: str = ""
    guided: Mapping[GuidedKind, GuidedStyle] = field(default_factory=_nothing)
    score: Score = "none"
    infill: Infill = "none"
    infill_model: str = ""
    fim_path: str = ""
    edit_path: str = ""
    stream_style: StreamStyle = "append"
    stream_options: Mapping[str, Any] = field(default_factory=_nothing)
    reasoning: ReasoningStyle = "none"
    reasoning_efforts: tuple[str, ...] = ()
    first_byte_s: float = 120.0
    start_concurrency: int = 10
    cache: Cache = "none"
    extra_body: Mapping[str, Any] = field(default_factory=_nothing)

    def with_reasoning(self, effort: str) -> Profile:
        """This profile with every request asking for ``effort``.

        Raises:
            OptionError: The provider has no such effort.
        """
        if effort not in self.reasoning_efforts:
            allowed = ", ".join(self.reasoning_efforts) or "none: this profile cannot set the effort"
            raise OptionError(f"reasoning effort {effort!r} of profile {self.name!r}: allowed is {allowed}")
        return replace(self, extra_body=merged(self.extra_body, _reasoning_fields(self.reasoning, effort)))


def _reasoning_fields(style: ReasoningStyle, effort: str) -> dict[str, Any]:
    if style == "reasoning_effort":
        return {"reasoning_effort": effort}
    if style == "reasoning.effort":
        return {"reasoning": {"effort": effort}}
    if style == "output_config.effort":
        return {"output_config": {"effort": effort}}
    return {"generationConfig": {"thinkingConfig": {"thinkingLevel": effort}}}


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``extra`` laid over it, objects within objects included."""
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


_BUILT_IN: Final = Path(__file__).with_name("profiles.toml")
_LITERALS: Final[Mapping[str, tuple[Any, ...]]] = {
    "protocol": get_args(ProtocolName),
    "auth": get_args(Auth),
    "prefill": get_args(Prefill),
    "score": get_args(Score),
    "infill": get_args(Infill),
    "stream_style": get_args(StreamStyle),
    "reasoning": get_args(ReasoningStyle),
    "cache": get_args(Cache),
}


@functools.cache
def built_in_profiles() -> Mapping[str, Profile]:
    """The profiles that come with the package, by name."""
    return load_profiles(_BUILT_IN)


def get_profile(name: str) -> Profile:
    """The built-in profile called ``name``.

    Raises:
        OptionError: There is none of that name.
    """
    known = built_in_profiles()
    if name not in known:
        raise OptionError.unknown("endpoint profile", name, known)
    return known[name]


def load_profiles(path: Path) -> Mapping[str, Profile]:
    """The profiles of a TOML file, one table each, in the file's order.

    Raises:
        OptionError: The file cannot be read, or a profile has an unknown field or a value that is not allowed.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"profiles file {str(path)!r} cannot be read: {error}") from error
    return MappingProxyType({name: _profile(path.name, name, table) for name, table in tables.items()})


def _profile(source: str, name: str, table: object) -> Profile:
    where = f"profile {name!r} in {source}"
    if not isinstance(table, dict):
        raise OptionError(f"{where}: expected a table [{name}], found {table!r}")
    known = {f.name: f for f in fields(Profile) if f.name != "name"}
    if unknown := [key for key in table if key not in known]:
        raise OptionError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(known)}")
    required = [key for key, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [key for key in required if key not in table]:
        raise OptionError(f"{where}: field {missing[0]!r} is missing")
    values = {key: _value(f"{where}: {key}", key, value, known[key].default) for key, value in table.items()}
    profile = Profile(name=name, **values)
    if profile.infill != "none" and not profile.fim_path:
        raise OptionError(f"{where}: infill = {profile.infill!r} needs a fim_path")
    if profile.infill == "edit" and not profile.edit_path:
        raise OptionError(f"{where}: infill = 'edit' needs an edit_path")
    if (profile.reasoning == "none") != (not profile.reasoning_efforts):
        raise OptionError(f"{where}: reasoning and reasoning_efforts are given together or not at all")
    return profile


def _value(what: str, key: str, value: Any, default: Any) -> Any:
    """``value`` in the type of the field's default; a field without one is a text."""
    if key in _LITERALS:
        return _one_of(what, value, _LITERALS[key])
    if isinstance(default, bool):
        return _checked(what, value, isinstance(value, bool), "true or false")
    if isinstance(default, int):
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return _checked(what, value, ok, "a whole number >= 0")
    if isinstance(default, float):
        ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
        return float(_checked(what, value, ok, "a number of seconds > 0"))
    if isinstance(default, tuple):
        ok = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return tuple(_checked(what, value, ok, "a list of texts"))
    if default is MISSING and key not in {"protocol", "summary"}:
        table = _checked(what, value, isinstance(value, dict), "a table")
        if key == "guided":
            table = {
                _one_of(what, k, get_args(GuidedKind)): _one_of(what, v, get_args(GuidedStyle))
                for k, v in table.items()
            }
        elif key == "headers":
            _checked(what, value, all(isinstance(text, str) for text in table.values()), "a table of texts")
        return MappingProxyType(table)
    return _checked(what, value, isinstance(value, str), "a text")


def _one_of(what: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    return _checked(what, value, isinstance(value, str) and value in allowed, f"one of {', '.join(allowed)}")


def _checked(what: str, value: Any, ok: bool, allowed: str) -> Any:
    if not ok:
        raise OptionError(f"{what} = {value!r}: allowed is {allowed}")
    return value
