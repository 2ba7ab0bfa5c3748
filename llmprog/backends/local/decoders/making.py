"""From options to a decoder."""

from __future__ import annotations

from collections.abc import Callable

from llmprog.backends.local.decoders.autoregressive import (
    DEFAULT_MEMORY,
    DEFAULT_PREFIX_MEMORY,
    AutoregressiveDecoder,
)
from llmprog.backends.local.decoders.base import Decoder, Vocabulary
from llmprog.backends.local.decoders.block_diffusion import BlockDiffusionDecoder
from llmprog.backends.local.decoders.cached_diffusion import CacheOptions
from llmprog.backends.local.decoders.drafters import Drafter
from llmprog.backends.local.decoders.hybrid import HybridDecoder
from llmprog.backends.local.decoders.hybrid_a import HybridADecoder
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.mdlm import MDLMDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.score_entropy import ScoreEntropyDecoder
from llmprog.backends.local.decoders.speculative import SpeculativeDecoder
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder, UniformOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions


def make_decoder(
    model: Transformer,
    vocabulary: Vocabulary,
    options: LocalOptions,
    shift_logits: bool,
    make_drafter: Callable[[], Drafter] | None = None,
) -> Decoder:
    """The chosen decoder; an option that is ``None`` keeps the default.

    Args:
        model: The network.
        vocabulary: Its token ids.
        options: Which decoder, and how.
        shift_logits: Whether its output at i predicts token i + 1 even where it writes by diffusion.
        make_drafter: What guesses ahead for the autoregressive decoder, if anything does.
    """
    if options.decoder == "autoregressive":
        memory = {
            "kv_memory": DEFAULT_MEMORY if options.kv_memory is None else options.kv_memory,
            "prefix_memory": DEFAULT_PREFIX_MEMORY if options.prefix_memory is None else options.prefix_memory,
        }
        if make_drafter is not None:
            return SpeculativeDecoder(model, vocabulary, make_drafter, **memory)
        return AutoregressiveDecoder(model, vocabulary, **memory)
    if options.decoder == "hybrid":
        hybrid = HybridADecoder if options.variant == "a" else HybridDecoder
        return hybrid(
            model,
            vocabulary,
            alpha0=0.1 if options.alpha0 is None else options.alpha0,
            steps=options.steps or 16,
        )
    if options.decoder == "uniform_diffusion":
        return UniformDiffusionDecoder(model, vocabulary, _denoising(options))
    scoring = {"score_samples": options.score_samples or 64, "score_seed": options.score_seed or 0}
    if options.decoder == "mdlm":
        return MDLMDecoder(
            model,
            vocabulary,
            sampler=options.sampler or "ancestral",
            steps=options.steps or 16,
            shift_logits=shift_logits,
            **scoring,
        )
    if options.decoder == "score_entropy":
        return ScoreEntropyDecoder(
            model,
            vocabulary,
            predictor=options.predictor or "analytic",
            noise=options.noise or "loglinear",
            steps=options.steps or 16,
            shift_logits=shift_logits,
            **scoring,
        )
    if options.decoder == "block_diffusion":
        return BlockDiffusionDecoder(
            model,
            vocabulary,
            _unmasking(options),
            score_samples=scoring["score_samples"],
            score_seed=scoring["score_seed"],
        )
    return MaskedDiffusionDecoder(
        model,
        vocabulary,
        _unmasking(options),
        CorrectionOptions(
            remask=options.remask,
            remask_eta=options.remask_eta,
            edit_threshold=options.edit_threshold,
            edit_steps=options.edit_steps or 16,
        ),
        None if options.cache is None else CacheOptions(kind=options.cache, refresh_every=options.refresh_every or 8),
        shift_logits=shift_logits,
        **scoring,
    )


def _denoising(options: LocalOptions) -> UniformOptions:
    """How a block of random tokens is denoised; an option that is ``None`` keeps the default."""
    names = ("steps", "t_min", "t_max", "entropy_bound", "stop_entropy")
    return UniformOptions(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})


def _unmasking(options: LocalOptions) -> UnmaskOptions:
    """The rule that reveals tokens; an option that is ``None`` keeps the default."""
    names = ("unmask", "threshold", "factor", "low_threshold", "credit_weight", "credit_decay", "guidance_scale")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    # Leftmost besides: on short texts of facts it is what pays.
    return UnmaskOptions(
        steps=options.steps,
        entropy_bound=options.entropy_bound,
        fallback=options.fallback or "leftmost",
        **given,
    )
