"""The network of MDLM and Eso-LM: a diffusion transformer (DiT) that is told no time.

Its blocks are modulated by the noise level (adaLN: a shift, a scale and a gate per sublayer). These models are always
given the level 0, so the modulation is constant and is multiplied into the weights beside it when they are loaded
(``checkpoints/dit_family.py``). What is left is a transformer with LayerNorm and biases in place of RMSNorm, and a
GELU layer in place of SwiGLU. Attention, positions, masks and caches are those of ``Transformer``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from llmprog.backends.local.networks.transformer import Block, Transformer, TransformerConfig

NORM_EPS = 1e-5


class GeluFeedForward(nn.Module):
    """Two layers with biases and the tanh approximation of GELU between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.d_ff)
        self.down_proj = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, d_model] to the same shape."""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))  # type: ignore[no-any-return]


class DiTBlock(Block):
    """One layer of a ``DiT``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        for name in ("attention_norm", "feed_forward_norm"):
            self.register_module(name, nn.LayerNorm(config.d_model, eps=NORM_EPS))
        self.register_module("feed_forward", GeluFeedForward(config))


class DiT(Transformer):
    """A transformer with LayerNorm and GELU.

    Args:
        config: Its shape; the embeddings are not tied.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(DiTBlock(config) for _ in range(config.num_layers))
        self.register_module("norm", nn.LayerNorm(config.d_model, eps=NORM_EPS))
        self.out = nn.Linear(config.d_model, config.vocab_size)
        self.head = None

    def unembed(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)  # type: ignore[no-any-return]
