"""Tokens for the positions of a canvas and how sure the model is of them, in one pass over the logits.

Letters in shapes: R rows, K positions per row, V vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from llmprog.backends.local.kernels.compiler import launch
from llmprog.backends.local.sampling import filter_logits, log_exponential

THREADS = 512


class Predicted(NamedTuple):
    """What a model says about positions, each [R, K].

    Attributes:
        tokens: int64, the tokens they are given.
        confidence: float32, each token's probability, at temperature 1 and of what is not forbidden; likewise below.
        margin: float32, the probability of the most likely token minus that of the second.
        entropy: float32, in nats.
    """

    tokens: Tensor
    confidence: Tensor
    margin: Tensor
    entropy: Tensor


def predict(
    logits: Tensor, forbidden: Tensor, keys: Tensor, counters: Tensor, temperature: Tensor, min_p: Tensor
) -> Predicted:
    """What ``logits`` say: by Gumbel-max in the streams of ``sampling.py`` where the temperature is above 0.

    Args:
        logits: float32 or bfloat16 [R, K, V].
        forbidden: bool [R or 1, V], True where a token must not be chosen.
        keys: int64 [R], stream keys.
        counters: int64 [R, K], which draw of its stream each position takes.
        temperature: float32 [R]; 0 takes the most likely token, the lowest of equals.
        min_p: float32 [R]; tokens less likely than this times the most likely one are not drawn; 0 keeps all.
    """
    return Predicted(*_predict(logits, forbidden, keys, counters, temperature, min_p))


@torch.library.custom_op("llmprog::predict", mutates_args=(), device_types="cpu")
def _predict(
    logits: Tensor, forbidden: Tensor, keys: Tensor, counters: Tensor, temperature: Tensor, min_p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference(logits, forbidden, keys, counters, temperature, min_p)


def reference(
    logits: Tensor, forbidden: Tensor, keys: Tensor, counters: Tensor, temperature: Tensor, min_p: Tensor
) -> Predicted:
    """What ``predict`` gives, by torch's own operators on any device."""
    logits = logits.float().masked_fill(forbidden.unsqueeze(1), -torch.inf)
    rows = temperature.unsqueeze(1)
    divisor = torch.where(rows > 0, rows, 1.0).unsqueeze(-1)
    kept = filter_logits(logits / divisor, min_p=min_p.unsqueeze(1))
    noise = log_exponential(keys.unsqueeze(1), counters, logits.shape[-1])
    drawn = logits.masked_fill(kept == -torch.inf, -torch.inf) - rows.unsqueeze(-1) * noise
    tokens = torch.where(rows > 0, drawn.argmax(-1), logits.argmax(-1))
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    most = probs.topk(2, dim=-1).values
    return Predicted(
        tokens,
        probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        most[..., 0] - most[..., 1],
        -(probs * logprobs.clamp(min=torch.finfo(torch.float32).min)).sum(-1),
    )


@_predict.register_kernel("cuda")
def _predict_on_cuda(
    logits: Tensor, forbidden: Tensor, keys: Tensor, counters: Tensor, temperature: Tensor, min_p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns, size = logits.shape
    if logits.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"predict: logits of {logits.dtype}; allowed are float32 and bfloat16")
    out = _empty(logits)
    if rows * columns:
        launch(
            "predict.cu",
            "predict_float32" if logits.dtype == torch.float32 else "predict_bfloat16",
            [
                *(value.contiguous() for value in (logits, forbidden, keys, counters, temperature, min_p)),
                *out,
                ctypes.c_int(columns),
                ctypes.c_int(size),
                ctypes.c_int(forbidden.shape[0]),
            ],
            grid=rows * columns,
            block=THREADS,
        )
    return out


@_predict.register_fake
def _predict_shapes(logits: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(logits)


def _empty(logits: Tensor) -> Predicted:
    shape = logits.shape[:2]
    tokens = torch.empty(shape, dtype=torch.int64, device=logits.device)
    numbers = [torch.empty(shape, dtype=torch.float32, device=logits.device) for _ in range(3)]
    return Predicted(tokens, *numbers)
