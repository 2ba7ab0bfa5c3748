"""Uniform diffusion: the canvas starts as random tokens, and every token may still change until its block is done.

Each of up to N steps, n = N..1, predicts every token of the block at temperature t_min + (t_max - t_min) n/N and draws
a candidate. Those of least entropy are accepted, as long as the entropies of the ones before add up to no more than a
bound (arXiv 2505.24857): what is nearly certain is nearly independent. All others are replaced by fresh random tokens.
The network is shown the expected embedding of its last prediction (self-conditioning, arXiv 2208.04202), so that not
all is lost with them. The block is done once its most likely tokens have not changed since the last step and their
mean entropy is small; those tokens are written, and the next block begins. These are the rules of DiffusionGemma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import (
    DRAWS_PER_STEP,
    Continuation,
    Row,
    Vocabulary,
    Writing,
    draw_counter,
)
from llmprog.backends.local.decoders.block_writing import BlockWriting
from llmprog.backends.local.decoders.watching import note_written
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import uniform
from llmprog.errors import CapabilityError


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformOptions:
    """How a block is denoised.

    Attributes:
        steps: N, most steps of a block.
        t_min: Temperature towards the last step, times the row's own temperature; 0 there is 0 here.
        t_max: Temperature of the first step, likewise.
        entropy_bound: Nats; how much entropy tokens accepted together may have, the last of them not counted.
        stop_entropy: Nats; a block whose most likely tokens are stable is done below this mean entropy.
        self_condition: Whether the network is shown its last prediction; only where it was trained to be.
    """

    steps: int = 32
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stop_entropy: float = 0.005
    self_condition: bool = True


class UniformDiffusionDecoder:
    """Writes a block by denoising random tokens; attention is block-causal, and finished blocks are cached."""

    name = "uniform_diffusion"
    score_is_bound = True
    keeps_tokens = True  # what is shown of a block before it is done is masks
    takes_joiners = True

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UniformOptions | None = None,
        *,
        use_cache: bool = True,
    ) -> None:
        """A decoder; ``use_cache=False`` computes the same without a cache, for comparison."""
        self._model = model
        self._vocabulary = vocabulary
        self._options = options or UniformOptions()
        self._use_cache = use_cache

    def start(self) -> Writing:
        return _UniformWriting(self._model, self._vocabulary, self._options, use_cache=self._use_cache)

    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """Refuse: what this sampler writes by has no likelihood that can be had.

        Raises:
            CapabilityError: Always.
        """
        raise no_likelihood("local")


def no_likelihood(backend: str) -> CapabilityError:
    """The error of asking ``backend`` for what this decoder does not define."""
    return CapabilityError(
        "decoder='uniform_diffusion' accepts and re-noises by entropy, which defines no likelihood of a text; use "
        "decoder=masked_diffusion for a lower bound, or decoder=autoregressive for the likelihood",
        backend=backend,
    )


class _UniformWriting(BlockWriting):
    """Rows of canvases of which every token is a guess until its block is done."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UniformOptions,
        *,
        use_cache: bool,
    ) -> None:
        super().__init__(model, vocabulary, use_cache=use_cache)
        self._options = options
        never = set(vocabulary.never_sampled)
        allowed = [token for token in range(vocabulary.size) if token not in never]
        self._allowed = torch.tensor(allowed, device=self.device)

    def _new_state(self, rows: Sequence[Row], tokens: Tensor) -> dict[str, Tensor]:
        """What the canvas holds now, the most likely tokens of the last step, what the network is shown of it."""
        keys = torch.tensor([row.key for row in rows], device=self.device)
        start = torch.tensor([len(row.prompt) for row in rows], device=self.device)
        columns = torch.arange(tokens.shape[1], device=self.device) - start.unsqueeze(1)
        guess = self._noise(keys, -1, columns)
        for place, row in enumerate(rows):
            if row.draft:
                end = len(row.prompt) + len(row.draft)
                guess[place, len(row.prompt) : end] = torch.tensor(row.draft, device=self.device)
        guess = torch.where(tokens == self.vocabulary.mask_id, guess, tokens)
        state = {
            "guess": guess,
            "likeliest": torch.full_like(tokens, -1),
            "block_step": torch.zeros(len(rows), dtype=torch.int64, device=self.device),
        }
        if self._options.self_condition:
            embedding = self.model.embedding.weight
            state["shown"] = embedding.new_zeros(*tokens.shape, embedding.shape[1])
        return state

    def _noise(self, keys: Tensor, step: Tensor | int, columns: Tensor) -> Tensor:
        """Random tokens at canvas ``columns`` [R, K], uniform over what a decoder may write; ``step`` is [R, 1]."""
        counters = draw_counter(step, columns) + DRAWS_PER_STEP // 2
        draws = uniform(keys.unsqueeze(1).expand_as(columns), counters, 1).squeeze(-1)
        return self._allowed[(draws * len(self._allowed)).long().clamp(max=len(self._allowed) - 1)]

    def _noisy(self, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens = self.state["guess"].gather(1, columns)
        if "shown" not in self.state:
            return tokens, None
        shown = self.state["shown"]
        return tokens, shown.gather(1, columns.unsqueeze(2).expand(-1, -1, shown.shape[2]))

    def _denoise(self, logits: Tensor, columns: Tensor, inside: Tensor) -> None:
        options, state = self._options, self.state
        blank = (self.tokens.gather(1, columns) == self.vocabulary.mask_id) & inside
        step = state["block_step"]
        share = (options.steps - step) / options.steps
        temperature = options.t_min + (options.t_max - options.t_min) * share
        scaled = logits / temperature[:, None, None]
        log_probs = scaled.log_softmax(-1)
        probs = log_probs.exp()
        entropy = -(probs * log_probs.masked_fill(probs == 0, 0.0)).sum(-1)

        column = columns - self.start.unsqueeze(1)
        candidates = self.sampler.sample(scaled, draw_counter(self.age.unsqueeze(1), column))
        accepted = accept(entropy.masked_fill(~blank, torch.inf), options.entropy_bound) & blank
        noise = self._noise(self.sampler.keys, self.age.unsqueeze(1), column)
        guess = torch.where(accepted, candidates, noise)

        likeliest = scaled.argmax(-1)
        before = state["likeliest"].gather(1, columns)
        stable = ((likeliest == before) | ~blank).all(1)
        mean_entropy = (entropy * blank).sum(1) / blank.sum(1).clamp(min=1)
        done = (stable & (mean_entropy < options.stop_entropy)) | (step + 1 >= options.steps)

        note_written(state, columns, blank, torch.where(done.unsqueeze(1), likeliest, guess), logits)
        _put(state["guess"], columns, guess, blank)
        _put(state["likeliest"], columns, likeliest, blank)
        _put(self.tokens, columns, likeliest, blank & done.unsqueeze(1))
        state["block_step"] = torch.where(done, 0, step + 1)
        if "shown" in state:
            weight = self.model.embedding.weight
            shown = probs.to(weight.dtype) @ weight
            index = columns.unsqueeze(2).expand_as(shown)
            # A column outside the block repeats another one; it must not overwrite it.
            kept = state["shown"].gather(1, index)
            changed = torch.where(inside.unsqueeze(2), shown - kept, torch.zeros_like(shown))
            state["shown"].scatter_add_(1, index, changed)

    def _shown(self, place: int, columns: slice, probabilities: Tensor) -> Tensor:
        """The guesses of the blocks that are begun: of the others nothing has been said, nor is it shown anywhere."""
        tokens, guess = self.tokens[place, columns], self.state["guess"][place, columns]
        return torch.where((tokens == self.vocabulary.mask_id) & (probabilities >= 0), guess, tokens)


def accept(entropy: Tensor, bound: float) -> Tensor:
    """Which tokens are accepted together, bool [R, K]: in ascending entropy while those before add up to ``bound``.

    The least entropy is always accepted; equal ones go to the lower column.

    Args:
        entropy: Float [R, K]; infinite where there is nothing to accept.
        bound: Nats.
    """
    ordered, order = entropy.sort(dim=1, stable=True)
    before = ordered.cumsum(1).roll(1, dims=1)
    before[:, 0] = 0
    return torch.zeros_like(entropy, dtype=torch.bool).scatter(1, order, before <= bound)


def _put(values: Tensor, columns: Tensor, new: Tensor, where: Tensor) -> None:
    """Write ``new`` into ``values`` at ``columns`` [R, K] where told; columns outside a block repeat others."""
    old = values.gather(1, columns)
    values.scatter_add_(1, columns, torch.where(where, new - old, 0))
