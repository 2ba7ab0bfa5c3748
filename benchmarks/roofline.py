"""How fast a device could run a transformer at best: the time to read its weights or to multiply by them.

Run as a script, it prints the bounds of an 8-billion-parameter LLaDA for the devices that it knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmprog.backends.local.networks.transformer import TransformerConfig

LLADA_8B = TransformerConfig(
    vocab_size=126464,
    d_model=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    d_ff=12288,
    rope_theta=5e5,
    norm_eps=1e-5,
    max_positions=4096,
    tied_embeddings=False,
)
BYTES = 2  # of a weight, key or value in bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a device can do in a second: bytes read, and operations on bfloat16."""

    bytes_per_s: float
    flops_per_s: float
    is_measured: bool = False


# From the makers' data sheets: memory, and dense bfloat16 products.
KNOWN = {
    "H200": Speed(bytes_per_s=4.8e12, flops_per_s=990e12),
    "H100": Speed(bytes_per_s=3.35e12, flops_per_s=990e12),
    "A100": Speed(bytes_per_s=2.04e12, flops_per_s=312e12),
}


def speed_of(device: torch.device) -> Speed:
    """By the data sheet where the device is known, else as measured by copying and multiplying."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, speed in KNOWN.items():
            if known in name:
                return speed
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.zeros(size // BYTES, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    width = 8192 if device.type == "cuda" else 512
    square = torch.zeros(width, width, dtype=torch.bfloat16, device=device)
    return Speed(
        bytes_per_s=2 * size / seconds_of(lambda: target.copy_(source), device),
        flops_per_s=2 * width**3 / seconds_of(lambda: square @ square, device),
        is_measured=True,
    )


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of one call of ``run``, the fastest of several, after a first one."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def num_weights(config: TransformerConfig) -> int:
    """Weights that every forward pass reads: all but the input embedding, of which it reads a few rows."""
    heads = config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    return config.num_layers * config.d_model * (heads + 3 * config.d_ff) + config.vocab_size * config.d_model


def forward_s(
    config: TransformerConfig, speed: Speed, *, fed: int, attended: int, rows: int = 1, weight_bytes: float = BYTES
) -> float:
    """Least seconds of a forward pass: of reading weights and cache, and of multiplying, the longer.

    Args:
        config: The transformer.
        speed: The device's.
        fed: Tokens fed per row.
        attended: Tokens that each of them attends.
        rows: Rows fed together.
        weight_bytes: Memory of a weight.
    """
    weights = num_weights(config)
    cached = 2 * config.num_layers * config.num_kv_heads * config.head_dim * attended * rows
    products = 2 * weights * fed * rows
    products += 4 * config.num_layers * config.num_heads * config.head_dim * fed * attended * rows
    return max((weight_bytes * weights + BYTES * cached) / speed.bytes_per_s, products / speed.flops_per_s)


def main() -> None:
    print(f"LLaDA-8B: {num_weights(LLADA_8B) / 1e9:.2f} billion weights read per forward pass, bfloat16")
    print("tokens/s at most at context 1024, a block of 32 fed on a cache, r tokens revealed per pass")
    print(f"{'device':<8}" + "".join(f"{f'r={r}':>8}" for r in (1, 2, 4, 8)))
    for name, speed in KNOWN.items():
        took = forward_s(LLADA_8B, speed, fed=32, attended=1024)
        print(f"{name:<8}" + "".join(f"{r / took:>8.0f}" for r in (1, 2, 4, 8)))


if __name__ == "__main__":
    main()
