"""Chat templates: how a model's conversations are written, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmprog.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST = 2**20
_MOST_RENDERED = 2**24


class ChatTemplate:
    """A Jinja template that comes with a model; it sees the messages and nothing else.

    Args:
        source: The template.
        tokens: Special tokens by their names in templates: ``bos_token``, ``eos_token``.
        backend: Id named in errors.

    Raises:
        InputError: It is no template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], backend: str) -> None:
        from jinja2 import TemplateError

        self._backend = backend
        self._tokens = dict(tokens)
        if len(source) > _LONGEST:
            raise InputError(f"{backend}: its chat template has {len(source)} characters; at most {_LONGEST} are read")
        try:
            self._template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"{backend}: its chat template cannot be read: {error}") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation up to where the model's turn begins.

        Raises:
            InputError: The template refuses the messages, as some do without a user's, or fails.
        """
        from jinja2 import TemplateError

        try:
            text: str = self._template.render(messages=list(messages), add_generation_prompt=True, **self._tokens)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(f"{self._backend}: its chat template does not take these messages: {error}") from error
        if len(text) > _MOST_RENDERED:
            raise InputError(f"{self._backend}: its chat template makes {len(text)} characters of these messages")
        return text


def _environment() -> Any:
    from jinja2.exceptions import TemplateRuntimeError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> Template:
        raise TemplateRuntimeError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    return environment
