"""The weights of ``local:puzzles``, the embedded model of llmprog; its code is ``llmprog.backends.local.puzzles``.

They are a package of their own so that whoever uses only remote models need not have them. MODEL_CARD.md says what
the model can do and how it was trained.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).with_name("puzzles.safetensors")
"""For the decoders ``autoregressive``, ``masked_diffusion`` and ``hybrid``."""
FURTHER_WEIGHTS = Path(__file__).with_name("puzzles_diffusion.safetensors")
"""``WEIGHTS`` trained further, for uniform diffusion, block diffusion and variant a of the hybrid."""
