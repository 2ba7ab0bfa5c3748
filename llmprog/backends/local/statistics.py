"""What a local model has done since it was opened."""

from __future__ import annotations

from dataclasses import dataclass

from llmprog.backends.local.decoders.base import Decoder
from llmprog.backends.local.decoders.prefill import RemembersPrompts
from llmprog.backends.local.decoders.speculative import SpeculativeDecoder
from llmprog.backends.local.engine import EngineCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStatistics:
    """What a local model has done since it was opened.

    Attributes:
        rows: Samples written.
        steps: Steps made; each writes a part of several samples.
        rows_per_step: Samples under way in a step, on average.
        restarts: Samples written again, for want of memory or because of another's error.
        prompt_tokens: Tokens of all prompts, the samples of one prompt sharing it; ``None`` for decoders without a
            cache of prompts.
        prefill_saved: Share of these in [0, 1] that was not computed, because a text that begins alike had been read.
        drafted_tokens: Tokens guessed ahead; ``None`` without ``draft``.
        draft_accepted: Share of these in [0, 1] that the model said too.
    """

    rows: int
    steps: int
    rows_per_step: float
    restarts: int
    prompt_tokens: int | None
    prefill_saved: float | None
    drafted_tokens: int | None
    draft_accepted: float | None


def statistics_of(counts: EngineCounts, decoder: Decoder) -> LocalStatistics:
    """The statistics of an engine and its decoder."""
    prefill = decoder.prefill_counts if isinstance(decoder, RemembersPrompts) else None
    drafts = decoder.draft_counts if isinstance(decoder, SpeculativeDecoder) else None
    return LocalStatistics(
        rows=counts.rows,
        steps=counts.steps,
        rows_per_step=counts.rows_per_step,
        restarts=counts.restarts,
        prompt_tokens=prefill.tokens if prefill else None,
        prefill_saved=prefill.saved if prefill else None,
        drafted_tokens=drafts.drafted if drafts else None,
        draft_accepted=drafts.share if drafts else None,
    )
