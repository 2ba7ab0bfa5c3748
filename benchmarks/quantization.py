"""What int8 and int4 weights cost in quality and bring in speed: SmolLM2-135M on this machine's CPU.

Quality: the Kullback-Leibler divergence of the next token's distribution from the float32 model's, in nats per token,
how often the most likely token is the same, and perplexity, on English text of this repository. Speed: one step that
feeds one token per row behind a prompt of 256 tokens, at batch 1, 4 and 16.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from llmprog.backends.local.checkpoints.loading import load_text_model
from llmprog.backends.local.models import NO_SMOLLM2, SMOLLM2_PACKAGE
from llmprog.backends.local.networks.attention_masks import causal
from llmprog.backends.local.networks.preparing import prepare
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions, StoredWeights

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "LICENSE", "docs/concepts.md")
NUM_TEXTS, LENGTH = 10, 256
BATCHES = (1, 4, 16)
STEPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How far a model is from the one it was made of."""

    divergence: float
    same_token: float
    perplexity: float


def load(dtype: torch.dtype) -> tuple[Transformer, Tensor]:
    """SmolLM2 and the texts, int64 [NUM_TEXTS, LENGTH]."""
    spec = find_spec(SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"benchmarks/quantization.py: {NO_SMOLLM2}")
    path = Path(next(iter(spec.submodule_search_locations)))
    loaded = load_text_model(path, backend="local:smollm2", device="cpu", dtype=dtype)
    text = "".join((ROOT / page).read_text(encoding="utf-8")[:6000] for page in PAGES)
    tokens = loaded.language.encode_text(text)[: NUM_TEXTS * LENGTH]
    return loaded.model, torch.tensor(tokens).view(NUM_TEXTS, LENGTH)


@torch.inference_mode()
def logprobs(model: Transformer, texts: Tensor) -> Tensor:
    """Log-probabilities of every token behind every beginning, float32 [NUM_TEXTS, LENGTH, V]."""
    positions, mask = torch.arange(LENGTH).unsqueeze(0), causal(LENGTH)
    return torch.cat([model(text.unsqueeze(0), positions, mask).float().log_softmax(-1) for text in texts])


def compare(truth: Tensor, said: Tensor, texts: Tensor) -> Quality:
    """How far ``said`` is from ``truth``."""
    own = said[:, :-1].gather(-1, texts[:, 1:, None])
    return Quality(
        divergence=float((truth.exp() * (truth - said)).sum(-1).mean()),
        same_token=float((truth.argmax(-1) == said.argmax(-1)).float().mean()),
        perplexity=float(own.mean().neg().exp()),
    )


@torch.inference_mode()
def tokens_per_s(model: Transformer, text: Tensor, batch: int) -> float:
    """Tokens per second of steps on the cached ``text``, by the median step."""
    cache = model.make_cache(1, LENGTH + STEPS)
    model(text.unsqueeze(0), torch.arange(LENGTH).unsqueeze(0), causal(LENGTH), cache, output=slice(-1, None))
    cache = cache.expand(torch.zeros(batch, dtype=torch.long))
    fed = text[:1].expand(batch, 1)
    took = []
    for step in range(STEPS):
        start = time.perf_counter()
        model(fed, torch.full((batch, 1), LENGTH + step), torch.ones(1, 1, LENGTH + step + 1, dtype=torch.bool), cache)
        took.append(time.perf_counter() - start)
    return batch / statistics.median(took)


def main() -> None:
    model, texts = load(torch.float32)
    truth = logprobs(model, texts)
    print(f"SmolLM2-135M, {texts.numel()} tokens, {torch.get_num_threads()} threads")
    print(
        f"{'weights':<18}{'divergence':>11}{'same token':>12}{'perplexity':>12}"
        + "".join(f"{f'B={b} tok/s':>13}" for b in BATCHES)
    )
    kinds: tuple[tuple[str, StoredWeights | None, bool], ...] = (
        ("bfloat16, as read", None, False),
        ("bfloat16", None, True),
        ("int8", "int8", True),
        ("int4", "int4", True),
    )
    for name, weights, is_prepared in kinds:
        model, _ = load(torch.bfloat16)
        if is_prepared:
            prepare(model, LocalOptions(dtype="bfloat16", weights=weights))
        quality = compare(truth, logprobs(model, texts), texts)
        speeds = "".join(f"{tokens_per_s(model, texts[0], batch):>13.0f}" for batch in BATCHES)
        print(
            f"{name:<18}{quality.divergence:>11.4f}{quality.same_token:>12.1%}{quality.perplexity:>12.2f}{speeds}",
            flush=True,
        )


if __name__ == "__main__":
    main()
