"""Writing the tokens that are to stay into a canvas: by a threshold, by number, or the leftmost.

Letters in shapes: R rows, G canvas columns, K columns of the block that is being written.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from llmprog.backends.local.kernels.compiler import launch

THREADS = 256
MOST_COLUMNS = 4096
"""The longest block whose confidences the kernel keeps in shared memory."""


def reveal(
    canvas: Tensor,
    tokens: Tensor,
    confidence: Tensor,
    columns: Tensor,
    eligible: Tensor,
    count: Tensor,
    *,
    threshold: float = math.inf,
    leftmost: bool = False,
) -> None:
    """Write into ``canvas``, of each row's eligible tokens, those with any of three claims to stay.

    Args:
        canvas: int64 [R, G], changed in place; its columns lie side by side in memory.
        tokens: int64 [R, K], the tokens that may be written.
        confidence: float32 [R, K], at least 0 where eligible.
        columns: int64 [R, K], where in the canvas each would be written.
        eligible: bool [R, K].
        count: int64 [R]; so many of the most confident stay, the left one of equals first.
        threshold: All whose confidence reaches it stay; infinity: none by this claim.
        leftmost: The first eligible one stays.
    """
    _reveal(canvas, tokens, confidence, columns, eligible, count, threshold, leftmost)


@torch.library.custom_op("llmprog::reveal", mutates_args=("canvas",), device_types="cpu")
def _reveal(
    canvas: Tensor,
    tokens: Tensor,
    confidence: Tensor,
    columns: Tensor,
    eligible: Tensor,
    count: Tensor,
    threshold: float,
    leftmost: bool,
) -> None:
    reference(canvas, tokens, confidence, columns, eligible, count, threshold, leftmost)


def reference(
    canvas: Tensor,
    tokens: Tensor,
    confidence: Tensor,
    columns: Tensor,
    eligible: Tensor,
    count: Tensor,
    threshold: float,
    leftmost: bool,
) -> None:
    """What ``reveal`` does, by torch's own operators on any device."""
    known = confidence.masked_fill(~eligible, -1.0)
    order = known.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(known.shape[1], device=known.device).expand_as(order)
    stay = torch.zeros_like(eligible).scatter(1, order, rank < count.unsqueeze(1)) | (known >= threshold)
    if leftmost:
        stay |= eligible.cumsum(1) == 1
    stay &= eligible
    # Columns may repeat where nothing is eligible: only what stays is written, and nothing else touched.
    row, place = stay.nonzero(as_tuple=True)
    canvas[row, columns[row, place]] = tokens[row, place]


@_reveal.register_kernel("cuda")
def _reveal_on_cuda(
    canvas: Tensor,
    tokens: Tensor,
    confidence: Tensor,
    columns: Tensor,
    eligible: Tensor,
    count: Tensor,
    threshold: float,
    leftmost: bool,
) -> None:
    rows, length = tokens.shape
    if length > MOST_COLUMNS or canvas.stride(1) != 1:
        raise ValueError(
            f"reveal: {length} columns of a canvas with strides {canvas.stride()}; allowed are {MOST_COLUMNS} columns "
            "that lie side by side"
        )
    if rows * length:
        launch(
            "reveal.cu",
            "reveal",
            [
                canvas,
                *(value.contiguous() for value in (tokens, confidence, columns, eligible, count)),
                ctypes.c_float(threshold),
                ctypes.c_int(leftmost),
                ctypes.c_int(length),
                ctypes.c_int64(canvas.stride(0)),
            ],
            grid=rows,
            block=THREADS,
        )


@_reveal.register_fake
def _reveal_shapes(*_arguments: Tensor | float | bool) -> None:
    """Nothing: it changes the canvas and returns nothing."""
