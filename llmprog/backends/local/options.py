"""The options of a local model, from an id's query string or from Python; what a decoder would ignore is refused.

This module does not import torch, so that ids can be checked and described without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from llmprog.errors import OptionError

DecoderName = Literal[
    "autoregressive",
    "masked_diffusion",
    "block_diffusion",
    "hybrid",
    "uniform_diffusion",
    "mdlm",
    "score_entropy",
]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
StoredWeights = Literal["int8", "int4"]
UnmaskRule = Literal["quota", "threshold", "random", "factor", "margin", "entropy", "credit", "hierarchical"]
Fallback = Literal["confident", "leftmost"]
Variant = Literal["a", "b"]
ProcessSampler = Literal["ancestral", "first_hitting"]
Predictor = Literal["analytic", "euler"]
Noise = Literal["loglinear", "geometric"]
StepCache = Literal["prefix", "dual"]
Remask = Literal["cap", "rescale", "conf", "switch", "loop"]
Toggle = Literal["on", "off"]
CudaGraphs = Literal["auto", "on", "off"]

MAX_LINES = 8


_IN_BLOCKS: tuple[DecoderName, ...] = get_args(DecoderName)[1:]
_BOUNDED: tuple[DecoderName, ...] = ("masked_diffusion", "block_diffusion", "mdlm", "score_entropy")
_UNMASKING: tuple[DecoderName, ...] = ("masked_diffusion", "block_diffusion")


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
            f"how tokens are written: {' | '.join(get_args(DecoderName))} (default: the model's own; local:puzzles: "
            "autoregressive)"
        ),
    )
    device: Device = field(default="auto", metadata=_about("cpu | cuda | auto: cuda where there is one (default auto)"))
    dtype: Dtype = field(
        default="auto",
        metadata=_about(
            "float32 | bfloat16 | float16 | auto: bfloat16 for models of text on cuda and for quantised weights, else "
            "float32 (default auto)"
        ),
    )
    weights: StoredWeights | None = field(
        default=None,
        metadata=_about(
            "int8 | int4: weights are rounded to that when loaded, and multiplied in bfloat16 (default: they are not)"
        ),
    )
    cuda_graphs: CudaGraphs = field(
        default="auto",
        metadata=_about(
            "on | off | auto: whether short forward passes on CUDA are recorded and replayed; auto: where that works "
            "(default auto)"
        ),
    )
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
    draft: str | None = field(
        default=None,
        metadata=_about(
            "what guesses tokens ahead, for the model to check: lookup (the text so far) | diffusion (local:puzzles) | "
            "the name or path of a smaller model; the text stays the same (default: nothing)",
            "autoregressive",
        ),
    )
    draft_tokens: int | None = field(
        default=None,
        metadata=_about("most tokens guessed ahead, 1..32 (default 4)", "autoregressive"),
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
        metadata=_about("tokens per block, >= 1 (default: one line of the reply)", *_IN_BLOCKS),
    )
    steps: int | None = field(
        default=None,
        metadata=_about(
            "denoising steps per block, >= 1 (default: masked, block diffusion: one per token; uniform_diffusion: at "
            "most 32; hybrid, mdlm, score_entropy: 16)",
            *_IN_BLOCKS,
        ),
    )
    unmask: UnmaskRule | None = field(
        default=None,
        metadata=_about(
            f"which tokens a step reveals: {' | '.join(get_args(UnmaskRule))} (default threshold)", *_UNMASKING
        ),
    )
    threshold: float | None = field(
        default=None,
        metadata=_about(
            "confidence in [0, 1] from which unmask=threshold, credit or hierarchical reveals (default 0.99)",
            *_UNMASKING,
        ),
    )
    fallback: Fallback | None = field(
        default=None,
        metadata=_about(
            "what unmask=threshold and credit reveal besides: confident (the best one where none reaches the "
            "threshold) | leftmost (the first masked token, always) (default leftmost)",
            *_UNMASKING,
        ),
    )
    factor: float | None = field(
        default=None,
        metadata=_about(
            "unmask=factor reveals the n best, n the largest with (n + 1)(1 - confidence of the n-th) < factor, > 0 "
            "(default 0.1)",
            *_UNMASKING,
        ),
    )
    entropy_bound: float | None = field(
        default=None,
        metadata=_about(
            "joint uncertainty in nats, >= 0, that a step accepts; with unmask=entropy (default: a "
            "fixed number of tokens; uniform_diffusion: 0.1)",
            *_UNMASKING,
            "uniform_diffusion",
        ),
    )
    low_threshold: float | None = field(
        default=None,
        metadata=_about(
            "confidence in [0, 1] that the best token of a run of masks exceeds to be revealed by unmask=hierarchical "
            "(default 0.6)",
            *_UNMASKING,
        ),
    )
    credit_weight: float | None = field(
        default=None,
        metadata=_about("how much earlier predictions count in unmask=credit, >= 0 (default 0.7)", *_UNMASKING),
    )
    credit_decay: float | None = field(
        default=None,
        metadata=_about("share in [0, 1] of their credit that is left after a step (default 0.8)", *_UNMASKING),
    )
    remask: Remask | None = field(
        default=None,
        metadata=_about(
            f"written tokens are masked again, by ReMDM's schedule {' | '.join(get_args(Remask))}; where steps are "
            "counted (default: never)",
            "masked_diffusion",
        ),
    )
    remask_eta: float | None = field(
        default=None,
        metadata=_about("strength in [0, 1] of remask (default 0.1; conf: 1)", "masked_diffusion"),
    )
    edit_threshold: float | None = field(
        default=None,
        metadata=_about(
            "probability in [0, 1] above which another token replaces a written one, for models trained to (default: "
            "none does)",
            "masked_diffusion",
        ),
    )
    edit_steps: int | None = field(
        default=None,
        metadata=_about("most steps in which a full block is still edited, >= 1 (default 16)", "masked_diffusion"),
    )
    cache: StepCache | None = field(
        default=None,
        metadata=_about(
            "what is kept between steps, approximately: prefix (all before the block) | dual (all but the block) "
            "(default: nothing)",
            "masked_diffusion",
        ),
    )
    refresh_every: int | None = field(
        default=None,
        metadata=_about(
            "steps of a block after which a cache is computed anew, >= 1 (default 8)",
            "masked_diffusion",
        ),
    )
    guidance_scale: float | None = field(
        default=None, metadata=_about("weight >= 0 of classifier-free guidance (default 0)", "masked_diffusion")
    )
    score_samples: int | None = field(
        default=None,
        metadata=_about("Monte-Carlo samples per scored continuation, >= 1 (default 64)", *_BOUNDED),
    )
    score_seed: int | None = field(default=None, metadata=_about("seed of those samples (default 0)", *_BOUNDED))
    alpha0: float | None = field(
        default=None, metadata=_about("share of tokens written by diffusion, in [0, 1] (default 0.1)", "hybrid")
    )
    variant: Variant | None = field(
        default=None,
        metadata=_about(
            "of Eso-LM: b (causal in the order of writing) | a (both ways among what is diffused) (default b)", "hybrid"
        ),
    )
    t_max: float | None = field(
        default=None,
        metadata=_about("factor > 0 of the temperature in a block's first step (default 0.8)", "uniform_diffusion"),
    )
    t_min: float | None = field(
        default=None,
        metadata=_about("that factor towards the last step, > 0 (default 0.4)", "uniform_diffusion"),
    )
    stop_entropy: float | None = field(
        default=None,
        metadata=_about(
            "mean entropy in nats, >= 0, below which a block that is stable is done (default 0.005)",
            "uniform_diffusion",
        ),
    )
    sampler: ProcessSampler | None = field(
        default=None,
        metadata=_about(
            "of the process in time: ancestral (in steps) | first_hitting (one token after the other) (default "
            "ancestral)",
            "mdlm",
        ),
    )
    predictor: Predictor | None = field(
        default=None,
        metadata=_about("how a step uses the ratios: analytic | euler (default analytic)", "score_entropy"),
    )
    noise: Noise | None = field(
        default=None,
        metadata=_about("of the process in time: loglinear | geometric (default loglinear)", "score_entropy"),
    )

    def __post_init__(self) -> None:
        self._check_values()
        if self.weights is not None and self.dtype not in ("auto", "bfloat16"):
            raise OptionError(
                f"weights={self.weights!r} with dtype={self.dtype!r}: its kernels multiply bfloat16; leave dtype out"
            )
        if self.decoder is None:
            return
        for option in fields(self):
            only = option.metadata["only"]
            if only and self.decoder not in only:
                choices = " or ".join(f"decoder={name}" for name in only)
                self._refuse((option.name,), f"decoder={self.decoder!r}", choices)
        if self.decoder in _UNMASKING:
            self._refuse_for_unmasking()
        elif self.alpha0 == 0:
            self._refuse(("steps", "block_length"), "alpha0=0", "a larger alpha0")
        elif self.sampler == "first_hitting":
            self._refuse(("steps",), "sampler='first_hitting'", "sampler=ancestral")
        if self.draft is None:
            self._refuse(("draft_tokens",), "no draft", "a draft")
        t_min, t_max = self.t_min or 0.4, self.t_max or 0.8
        if t_min > t_max:
            raise OptionError(f"option t_min={t_min!r}; allowed is a number up to t_max={t_max!r}")

    def _refuse_for_unmasking(self) -> None:
        """Refuse what the rule that reveals tokens would ignore."""
        rule = self.unmask or "threshold"
        for name, rules in _RULES_THAT_READ.items():
            if rule not in rules:
                self._refuse((name,), f"unmask={rule!r}", " or ".join(f"unmask={other}" for other in rules))
        if self.entropy_bound is not None:
            self._refuse(("steps", "remask"), f"entropy_bound={self.entropy_bound!r}", "no entropy_bound")
        if self.remask is None:
            self._refuse(("remask_eta",), "no remask", f"remask={' or remask='.join(get_args(Remask))}")
        if self.edit_threshold is None:
            self._refuse(("edit_steps",), "no edit_threshold", "an edit_threshold")
        if self.cache is None:
            self._refuse(("refresh_every",), "no cache", "cache=prefix or cache=dual")
        elif self.guidance_scale:
            raise OptionError(
                f"guidance_scale={self.guidance_scale!r} with cache={self.cache!r}: what the model says without the "
                "prompt is not cached; use either of them"
            )

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
        """Refuse what the embedded model would ignore or be ruined by.

        Raises:
            OptionError: It is asked for.
        """
        if self.chat_template is not None:
            raise OptionError(f"chat_template={self.chat_template!r} has no effect with local:puzzles")
        if self.edit_threshold is not None:
            raise OptionError(
                f"edit_threshold={self.edit_threshold!r} with local:puzzles: it was not trained to predict tokens that "
                "it is shown, and would replace right ones; use remask, or edit a finished text with LocalBackend.edit"
            )

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
            is_kind = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            if not is_kind or not is_allowed(value):
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


_COUNTED: tuple[UnmaskRule, ...] = ("quota", "random", "margin", "entropy")
_RULES_THAT_READ: Mapping[str, tuple[UnmaskRule, ...]] = {
    "steps": _COUNTED,
    "threshold": ("threshold", "credit", "hierarchical"),
    "fallback": ("threshold", "credit"),
    "factor": ("factor",),
    "entropy_bound": ("entropy",),
    "low_threshold": ("hierarchical",),
    "credit_weight": ("credit",),
    "credit_decay": ("credit",),
    "remask": _COUNTED,
}

_Rule = tuple[type, Callable[[Any], bool], str]


def _one_of(choices: tuple[str, ...]) -> _Rule:
    return str, lambda value: value in choices, " | ".join(choices)


def _in_range(kind: type, least: float, most: float, allowed: str) -> _Rule:
    return kind, lambda value: least <= value <= most, allowed


# What is more fits no machine, and overflows where it is multiplied.
_MOST, _MOST_THREADS = 10**9, 1024
_POSITIVE = _in_range(int, 1, _MOST, f"a whole number >= 1, at most {_MOST}")
_SHARE = _in_range(float, 0, 1, "a number in [0, 1]")
_NOT_NEGATIVE = _in_range(float, 0, sys.float_info.max, "a finite number >= 0")
_POSITIVE_NUMBER: _Rule = (float, lambda value: 0 < value <= sys.float_info.max, "a finite number > 0")

# Each option's type, the values it takes, and these in words.
_RULES: dict[str, _Rule] = {
    "decoder": _one_of(get_args(DecoderName)),
    "device": _one_of(get_args(Device)),
    "dtype": _one_of(get_args(Dtype)),
    "weights": _one_of(get_args(StoredWeights)),
    "cuda_graphs": _one_of(get_args(CudaGraphs)),
    "threads": _in_range(int, 1, _MOST_THREADS, f"a whole number >= 1, at most {_MOST_THREADS}"),
    "max_batch_rows": _POSITIVE,
    "kv_memory": _POSITIVE,
    "prefix_memory": _in_range(int, 0, _MOST, f"a whole number >= 0, at most {_MOST}"),
    "draft": (str, bool, "lookup | diffusion | the name or path of a model"),
    "draft_tokens": _in_range(int, 1, 32, "a whole number in 1..32"),
    "lines": _in_range(int, 1, MAX_LINES, f"a whole number in 1..{MAX_LINES}"),
    "chat_template": _one_of(get_args(Toggle)),
    "block_length": _POSITIVE,
    "steps": _POSITIVE,
    "unmask": _one_of(get_args(UnmaskRule)),
    "threshold": _SHARE,
    "fallback": _one_of(get_args(Fallback)),
    "factor": _POSITIVE_NUMBER,
    "entropy_bound": _NOT_NEGATIVE,
    "low_threshold": _SHARE,
    "credit_weight": _NOT_NEGATIVE,
    "credit_decay": _SHARE,
    "remask": _one_of(get_args(Remask)),
    "remask_eta": _SHARE,
    "edit_threshold": _SHARE,
    "edit_steps": _POSITIVE,
    "cache": _one_of(get_args(StepCache)),
    "refresh_every": _POSITIVE,
    "guidance_scale": _NOT_NEGATIVE,
    "score_samples": _POSITIVE,
    "score_seed": _in_range(int, -(2**63), 2**63 - 1, "a whole number of 64 bits"),
    "alpha0": _SHARE,
    "variant": _one_of(get_args(Variant)),
    "t_max": _POSITIVE_NUMBER,
    "t_min": _POSITIVE_NUMBER,
    "stop_entropy": _NOT_NEGATIVE,
    "sampler": _one_of(get_args(ProcessSampler)),
    "predictor": _one_of(get_args(Predictor)),
    "noise": _one_of(get_args(Noise)),
}


def describe_options() -> Mapping[str, str]:
    """Option names with one line of help each."""
    return {option.name: option.metadata["help"] for option in fields(LocalOptions)}
