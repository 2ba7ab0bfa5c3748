"""The option ``draft``: which drafter guesses tokens ahead, with the model that it may have to load first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from llmprog.backends.local.decoders.drafters import DiffusionDrafter, Drafter, LookupDrafter, ModelDrafter
from llmprog.backends.local.networks.preparing import prepare
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.text.language import Language
from llmprog.backends.local.text.text_language import TextLanguage
from llmprog.errors import OptionError

DEFAULT_DRAFT_TOKENS = 4


def drafter_of(
    options: LocalOptions, model: Transformer, language: Language, path_of: Callable[[str], Path], backend: str
) -> Callable[[], Drafter] | None:
    """What makes a drafter for each writing of ``model``, or ``None`` where nothing is drafted.

    Args:
        options: ``draft`` and ``draft_tokens``.
        model: The model whose tokens are guessed.
        language: Its tokenizer.
        path_of: Where the model of a name lies.
        backend: Id named in errors.

    Raises:
        OptionError: The drafter does not speak the model's language.
        ModelFileError: It cannot be read.
    """
    draft, count = options.draft, options.draft_tokens or DEFAULT_DRAFT_TOKENS
    if draft is None:
        return None
    if draft == "lookup":
        return lambda: LookupDrafter(count)
    if draft == "diffusion":
        if not isinstance(language, PuzzleTokenizer):
            raise OptionError(
                f"draft='diffusion': the weights of {backend} do not denoise; use draft=lookup or a model"
            )
        mode_id = language.diffusion_id
        return lambda: DiffusionDrafter(model, language.vocabulary, count, mode_id)
    if not isinstance(language, TextLanguage):
        raise OptionError(f"draft={draft!r}: {backend} is no model of text; use draft=diffusion or draft=lookup")
    from llmprog.backends.local.checkpoints.loading import load_text_model

    weight = model.embedding.weight
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.bfloat16
    small = load_text_model(
        path_of(draft), backend=backend, device=weight.device, dtype=dtype, decoder="autoregressive"
    )
    if small.language.tokenizer.get_vocab() != language.tokenizer.get_vocab():
        raise OptionError(f"draft={draft!r}: its tokens are not those of {backend}; use a model of the same family")
    smaller, vocabulary = prepare(small.model, options), language.vocabulary
    if smaller.config.vocab_size != vocabulary.size:
        raise OptionError(
            f"draft={draft!r}: it has {smaller.config.vocab_size} token ids, {backend} {vocabulary.size}; "
            "use a model of the same family"
        )
    return lambda: ModelDrafter(smaller, vocabulary, count)
