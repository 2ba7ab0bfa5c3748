"""Templates as canvases, and canvases as the templates' texts."""

from __future__ import annotations

from collections.abc import Sequence

from llmprog.backends.local.options import DecoderName
from llmprog.backends.local.text.language import Language
from llmprog.errors import OptionError
from llmprog.types import Blank, SamplingParams, Template

INFILLING_DECODERS: tuple[DecoderName, ...] = (
    "masked_diffusion",
    "block_diffusion",
    "hybrid",
    "uniform_diffusion",
    "mdlm",
    "score_entropy",
)
"""Those that may be given text behind what they write, and so can fill blanks and edit."""


def encode_parts(template: Template, params: SamplingParams, language: Language) -> list[tuple[int, ...]]:
    """The tokens of each part, ``mask_id`` for each token of a blank.

    Raises:
        InputError: The model does not know what the given text holds.
        OptionError: The blanks hold more than ``max_tokens``.
    """
    num_blank = num_blank_tokens(template)
    if num_blank > params.max_tokens:
        raise OptionError(
            f"SamplingParams(max_tokens={params.max_tokens}): the template's blanks hold {num_blank} tokens"
        )
    mask_id = language.vocabulary.mask_id
    return [
        (mask_id,) * part.num_tokens if isinstance(part, Blank) else tuple(language.encode_text(part))
        for part in template.parts
    ]


def num_blank_tokens(template: Template) -> int:
    """How many tokens its blanks hold."""
    return sum(part.num_tokens for part in template.parts if isinstance(part, Blank))


def stitch(template: Template, parts: Sequence[Sequence[int]], tokens: Sequence[int], language: Language) -> str:
    """The template's text with its blanks filled by ``tokens``."""
    text = ""
    start = 0
    for part, ids in zip(template.parts, parts, strict=True):
        end = start + len(ids)
        before = language.decode(tokens[:start])
        in_context = language.decode(tokens[:end])[len(before) :]
        if isinstance(part, Blank):
            text += in_context.removeprefix(" ") if text[-1:].isspace() else in_context
        else:
            joint = " " if in_context[:1] == " " and text and not (text[-1].isspace() or part[:1].isspace()) else ""
            text += joint + part
        start = end
    return text
