"""Networks and decoding written out slowly, in float64, from checkpoints' tensors, to compare faster code with.

Nothing here is shared with the library: sums are taken head by head and position by position, tensors go by the names
that the checkpoints give them, and rules are those of the papers. It is for tiny models only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Logits = Callable[[Sequence[int]], Tensor]
"""From token ids to float64 [length, vocabulary]."""


def llada_logits(tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Sequence[int]) -> Tensor:
    """LLaDA's network (arXiv 2502.09992): RMSNorm, rotary halves, SwiGLU; every token sees every token."""
    body = {name.removeprefix("model.transformer."): tensor.double() for name, tensor in tensors.items()}
    heads, width = config["n_heads"], config["d_model"] // config["n_heads"]
    shared = heads // config["n_kv_heads"]
    x = body["wte.weight"][list(tokens)]
    for layer in range(config["n_layers"]):
        block = {
            name.removeprefix(f"blocks.{layer}."): tensor
            for name, tensor in body.items()
            if name.startswith(f"blocks.{layer}.")
        }
        normed = _rms_norm(x, block["attn_norm.weight"], config["rms_norm_eps"])
        q, k, v = (normed @ block[f"{name}_proj.weight"].T for name in "qkv")
        outs = []
        for head in range(heads):
            own, key = _columns(head, width), _columns(head // shared, width)
            queries = _rotated(q[:, own], config["rope_theta"])
            keys = _rotated(k[:, key], config["rope_theta"])
            outs.append(_seen(queries, keys, v[:, key], None))
        x = x + torch.cat(outs, 1) @ block["attn_out.weight"].T
        normed = _rms_norm(x, block["ff_norm.weight"], config["rms_norm_eps"])
        gate = normed @ block["ff_proj.weight"].T
        x = x + (gate / (1 + (-gate).exp()) * (normed @ block["up_proj.weight"].T)) @ block["ff_out.weight"].T
    return _rms_norm(x, body["ln_f.weight"], config["rms_norm_eps"]) @ body["ff_out.weight"].T


def dit_logits(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Sequence[int], mask: Tensor | None = None
) -> Tensor:
    """MDLM's network (arXiv 2406.07524) at noise level 0, each block modulated by what it makes of the level.

    Args:
        tensors: The checkpoint's.
        config: The checkpoint's.
        tokens: Token ids, one per position.
        mask: bool [length, length], True where the query may attend the key; ``None`` is everywhere.
    """
    body = {name.removeprefix("backbone."): tensor.double() for name, tensor in tensors.items()}
    heads, width = config["n_heads"], config["hidden_dim"] // config["n_heads"]
    level, half = 0.0, 128
    angles = [level * math.exp(-math.log(10000) * i / half) for i in range(half)]
    sinusoid = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    inner = _linear(sinusoid, body, "sigma_map.mlp.0")
    condition = _silu(_linear(_silu(inner), body, "sigma_map.mlp.2"))
    x = body["vocab_embed.embedding"][list(tokens)]
    for layer in range(config["n_blocks"]):
        place = f"blocks.{layer}"
        parts = _linear(condition, body, f"{place}.adaLN_modulation").split(config["hidden_dim"])
        shift, scale, gate, shift_2, scale_2, gate_2 = parts
        modulated = _layer_norm(x) * body[f"{place}.norm1.weight"] * (1 + scale) + shift
        q, k, v = (modulated @ body[f"{place}.attn_qkv.weight"].T).split(config["hidden_dim"], dim=1)
        outs = []
        for head in range(heads):
            own = _columns(head, width)
            outs.append(_seen(_rotated(q[:, own], 10000.0), _rotated(k[:, own], 10000.0), v[:, own], mask))
        x = x + gate * (torch.cat(outs, 1) @ body[f"{place}.attn_out.weight"].T)
        modulated = _layer_norm(x) * body[f"{place}.norm2.weight"] * (1 + scale_2) + shift_2
        inner = _linear(modulated, body, f"{place}.mlp.0")
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + gate_2 * _linear(inner, body, f"{place}.mlp.2")
    shift, scale = _linear(condition, body, "output_layer.adaLN_modulation").split(config["hidden_dim"])
    final = _layer_norm(x) * body["output_layer.norm_final.weight"] * (1 + scale) + shift
    return _linear(final, body, "output_layer.linear")


def llada_canvas(
    logits: Logits,
    prompt: Sequence[int],
    *,
    length: int,
    block_length: int,
    steps: int,
    mask_id: int,
    forbidden: Sequence[int] = (),
    guidance: float = 0.0,
    is_shifted: bool = False,
) -> list[int]:
    """What LLaDA writes behind ``prompt`` at temperature 0 (arXiv 2502.09992, algorithm 5).

    Blocks are filled from left to right, each in ``steps`` steps that share its tokens evenly, the first steps taking
    what is left over; each reveals the tokens whose probability is highest, the leftmost of equals.

    Args:
        logits: The network.
        prompt: Token ids.
        length: Tokens to write.
        block_length: Tokens of one block.
        steps: Per block.
        mask_id: Stands for a token that is not written yet.
        forbidden: Ids that are never written.
        guidance: w of un + (w + 1)(lg - un).
        is_shifted: Whether the output at i predicts token i + 1.
    """
    text = [*prompt, *[mask_id] * length]
    for start in range(len(prompt), len(text), block_length):
        block = range(start, min(start + block_length, len(text)))
        for step in range(steps):
            left = [place for place in block if text[place] == mask_id]
            if not left:
                break
            seen = logits(text)
            if guidance:
                blind = logits([mask_id] * len(prompt) + text[len(prompt) :])
                seen = blind + (guidance + 1) * (seen - blind)
            chosen = {}
            for place in left:
                row = seen[place - 1 if is_shifted else place].clone()
                row[list(forbidden)] = -math.inf
                likely = row.exp() / row.exp().sum()
                chosen[place] = (int(row.argmax()), float(likely.max()))
            count = len(block) // steps + (step < len(block) % steps)
            for place in sorted(left, key=lambda place: -chosen[place][1])[:count]:
                text[place] = chosen[place][0]
    return text[len(prompt) :]


def _linear(x: Tensor, body: Mapping[str, Tensor], place: str) -> Tensor:
    return x @ body[f"{place}.weight"].T + body[f"{place}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def _columns(head: int, width: int) -> slice:
    return slice(head * width, head * width + width)


def _rotated(x: Tensor, theta: float) -> Tensor:
    """Each of x's rows [length, width] turned by its position, column i together with column i + width / 2."""
    half = x.shape[1] // 2
    turned = x.clone()
    for position in range(len(x)):
        for i in range(half):
            angle = position * theta ** (-i / half)
            a, b = x[position, i], x[position, i + half]
            turned[position, i] = a * math.cos(angle) - b * math.sin(angle)
            turned[position, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def _seen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one head, query by query."""
    rows = []
    for i in range(len(q)):
        scores = k @ q[i] / math.sqrt(q.shape[1])
        if mask is not None:
            scores = scores.masked_fill(~mask[i], -math.inf)
        weights = (scores - scores.max()).exp()
        rows.append(weights / weights.sum() @ v)
    return torch.stack(rows)
