"""The options of a local model, from an id's query string or from Python; what a decoder would ignore is refused.

This module does not import torch, so that ids can be checked and described without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from llmprog.errors import OptionError

DecoderName = Literal["autoregressive", "masked_diffusion", "hybrid"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
UnmaskRule = Literal["quota", "threshold", "random"]
Fallback = Literal["confident", "leftmost"]
Toggle = Literal["on", "off"]

MAX_LINES = 8


def _about(description: str, *only: DecoderName) -> dict[str, Any]:
    """A field's line of help, and the decoders it belongs to, none meaning all."""
    return {"help": f"{description} [{', '.join(only)}]" if only else description, "only": only}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """How a local model is run. ``None`` is the default of the model or the decoder (see ``describe_options``).

    Raises:
        OptionError: A value is not allowed, or the chosen decoder or rule would ignore the option. Without a
            ``decoder``, the latter is known and raised once ``for_model`` has chosen one.
    """

    decoder: DecoderName | None = field(
        default=None,
        metadata=_about(
            "how tokens are written: autoregressive | masked_diffusion | hybrid (default: the model's own; "
            "local:puzzles: autoregressive)"
        ),
    )
    device: Device = field(default="auto", metadata=_about("cpu | cuda | auto: cuda where there is one (default auto)"))
    dtype: Dtype = field(default="float32", metadata=_about("float32 | bfloat16 (default float32)"))
    threads: int | None = field(
        default=None, metadata=_about("CPU threads of one operation, >= 1 (default: torch's choice)")
    )
    max_batch_rows: int = field(default=256, metadata=_about("most samples decoded together, >= 1 (default 256)"))
    kv_memory: int | None = field(
        default=None,
        metadata=_about(
            "most MiB of keys and values of samples under way, >= 1; the others wait (default 2048)", "autoregressive"
        ),
    )
    prefix_memory: int | None = field(
        default=None,
        metadata=_about("most MiB of keys and values kept of texts read before, >= 0 (default 512)", "autoregressive"),
    )
    lines: int | None = field(
        default=None, metadata=_about(f"most lines of one proposal, 1..{MAX_LINES} (default: what the prompt asks for)")
    )
    chat_template: Toggle | None = field(
        default=None,
        metadata=_about(
            "on | off: whether a model of text is shown messages as a conversation, or their text alone (default: on, "
            "where it has a template)"
        ),
    )
    block_length: int | None = field(
        default=None,
        metadata=_about("tokens per block, >= 1 (default: one line of the reply)", "masked_diffusion", "hybrid"),
    )
    steps: int | None = field(
        default=None,
        metadata=_about(
            "denoising steps per block, >= 1 (default: one per token; hybrid: 16 for the diffused share)",
            "masked_diffusion",
            "hybrid",
        ),
    )
    unmask: UnmaskRule | None = field(
        default=None,
        metadata=_about(
            "which tokens a step reveals: quota | threshold | random (default threshold)", "masked_diffusion"
        ),
    )
    threshold: float | None = field(
        default=None,
        metadata=_about("confidence in [0, 1] from which unmask=threshold reveals (default 0.99)", "masked_diffusion"),
    )
    fallback: Fallback | None = field(
        default=None,
        metadata=_about(
            "what unmask=threshold reveals besides: confident (the best one where none reaches the threshold) | "
            "leftmost (the first masked token, always) (default leftmost)",
            "masked_diffusion",
        ),
    )
    guidance_scale: float | None = field(
        default=None, metadata=_about("weight >= 0 of classifier-free guidance (default 0)", "masked_diffusion")
    )
    score_samples: int | None = field(
        default=None,
        metadata=_about("Monte-Carlo samples per scored continuation, >= 1 (default 64)", "masked_diffusion"),
    )
    score_seed: int | None = field(
        default=None, metadata=_about("seed of those samples (default 0)", "masked_diffusion")
    )
    alpha0: float | None = field(
        default=None, metadata=_about("share of tokens written by diffusion, in [0, 1] (default 0.1)", "hybrid")
    )

    def __post_init__(self) -> None:
        self._check_values()
        if self.decoder is None:
            return
        for option in fields(self):
            only = option.metadata["only"]
            if only and self.decoder not in only:
                choices = " or ".join(f"decoder={name}" for name in only)
                self._refuse((option.name,), f"decoder={self.decoder!r}", choices)
        rule = self.unmask or "threshold"
        if self.decoder == "masked_diffusion" and rule == "threshold":
            self._refuse(("steps",), "unmask='threshold'", "unmask=quota or unmask=random")
        elif self.decoder == "masked_diffusion":
            self._refuse(("threshold", "fallback"), f"unmask={rule!r}", "unmask=threshold")
        elif self.alpha0 == 0:
            self._refuse(("steps", "block_length"), "alpha0=0", "a larger alpha0")

    def for_model(self, decoders: Sequence[DecoderName], backend: str) -> LocalOptions:
        """These options with a decoder: the one asked for, or else the model's own.

        Args:
            decoders: Those that fit the model, its own first.
            backend: Id named in errors.

        Raises:
            OptionError: The decoder that is asked for does not fit, or the model's own would ignore an option.
        """
        return replace(self, decoder=choose_decoder(self.decoder, decoders, backend))

    def refuse_for_text(self) -> None:
        """Refuse what a model of text would ignore.

        Raises:
            OptionError: It is asked for.
        """
        if self.lines is not None:
            raise OptionError(f"lines={self.lines!r} has no effect with a model of text; it belongs to local:puzzles")

    def refuse_for_puzzles(self) -> None:
        """Refuse what the embedded model would ignore.

        Raises:
            OptionError: It is asked for.
        """
        if self.chat_template is not None:
            raise OptionError(f"chat_template={self.chat_template!r} has no effect with local:puzzles")

    def _refuse(self, names: tuple[str, ...], setting: str, instead: str) -> None:
        """Raise if one of these options is set although ``setting`` leaves it without effect."""
        for name in names:
            if getattr(self, name) is not None:
                raise OptionError(
                    f"{name}={getattr(self, name)!r} has no effect with {setting}; leave it out, or choose {instead}"
                )

    def _check_values(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            kind, is_allowed, allowed = _RULES[option.name]
            if value is None and option.default is None:
                continue
            if not isinstance(value, (int, float) if kind is float else kind) or not is_allowed(value):
                raise OptionError(f"option {option.name}={value!r}; allowed is {allowed}")

    @classmethod
    def parse(cls, model: str, texts: Mapping[str, str]) -> LocalOptions:
        """The options of an id's query string.

        Args:
            model: The id without its query, for messages.
            texts: Option names and their values as text.

        Raises:
            OptionError: A name is unknown, or a value is not of its type or not allowed.
        """
        values: dict[str, object] = {}
        for name, text in texts.items():
            if name not in {option.name for option in fields(cls)}:
                raise OptionError.unknown(f"option of {model}", name, [option.name for option in fields(cls)])
            kind, _, allowed = _RULES[name]
            try:
                values[name] = kind(text)
            except ValueError as error:
                raise OptionError(f"option {name}={text!r}; allowed is {allowed}") from error
        return cls(**values)  # type: ignore[arg-type]


def choose_decoder(asked: DecoderName | None, decoders: Sequence[DecoderName], backend: str) -> DecoderName:
    """The decoder that is asked for, or else the first of those that fit the model.

    Raises:
        OptionError: It is none of them.
    """
    if asked is None:
        return decoders[0]
    if asked not in decoders:
        raise OptionError(
            f"decoder={asked!r} does not fit the weights of {backend.partition('?')[0]}; "
            f"use {' or '.join(f'decoder={name}' for name in decoders)}"
        )
    return asked


_Rule = tuple[type, Callable[[Any], bool], str]


def _one_of(choices: tuple[str, ...]) -> _Rule:
    return str, lambda value: value in choices, " | ".join(choices)


def _in_range(kind: type, least: float, most: float, allowed: str) -> _Rule:
    return kind, lambda value: least <= value <= most, allowed


_POSITIVE = _in_range(int, 1, math.inf, "a whole number >= 1")
_SHARE = _in_range(float, 0, 1, "a number in [0, 1]")

# Each option's type, the values it takes, and these in words.
_RULES: dict[str, _Rule] = {
    "decoder": _one_of(get_args(DecoderName)),
    "device": _one_of(get_args(Device)),
    "dtype": _one_of(get_args(Dtype)),
    "threads": _POSITIVE,
    "max_batch_rows": _POSITIVE,
    "kv_memory": _POSITIVE,
    "prefix_memory": _in_range(int, 0, math.inf, "a whole number >= 0"),
    "lines": _in_range(int, 1, MAX_LINES, f"a whole number in 1..{MAX_LINES}"),
    "chat_template": _one_of(get_args(Toggle)),
    "block_length": _POSITIVE,
    "steps": _POSITIVE,
    "unmask": _one_of(get_args(UnmaskRule)),
    "threshold": _SHARE,
    "fallback": _one_of(get_args(Fallback)),
    "guidance_scale": (float, lambda value: value >= 0 and math.isfinite(value), "a finite number >= 0"),
    "score_samples": _POSITIVE,
    "score_seed": _in_range(int, -math.inf, math.inf, "a whole number"),
    "alpha0": _SHARE,
}


def describe_options() -> Mapping[str, str]:
    """Option names with one line of help each."""
    return {option.name: option.metadata["help"] for option in fields(LocalOptions)}
