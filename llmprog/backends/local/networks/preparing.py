"""A loaded model in the form in which it runs: its layers fused or quantised, its forward passes recorded."""

from __future__ import annotations

from torch import nn

from llmprog.backends.local.networks.cuda_graphs import GraphedTransformer
from llmprog.backends.local.networks.fused_layers import fuse_layers
from llmprog.backends.local.networks.quantization import quantize
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions
from llmprog.errors import OptionError


def prepare(model: Transformer, options: LocalOptions) -> Transformer:
    """The same function as ``model``, which is changed in place; for inference only.

    Args:
        model: On its device. A network that runs in transformers is given back as it is.
        options: Of them, ``weights`` and ``cuda_graphs``.

    Raises:
        OptionError: The model cannot be quantised or recorded, and that is asked for.
        MissingExtraError: torchao is needed and not installed.
    """
    is_ours = isinstance(getattr(model, "layers", None), nn.ModuleList)
    on_cuda = model.embedding.weight.device.type == "cuda"
    if options.cuda_graphs == "on" and not (is_ours and on_cuda):
        where = "on a CPU" if is_ours else "with a network that runs in transformers"
        raise OptionError(f"cuda_graphs='on' has no effect {where}; leave it out")
    if not is_ours:
        if options.weights is not None:
            raise OptionError(
                f"weights={options.weights!r} has no effect with a network that runs in transformers; leave it out"
            )
        return model
    if options.weights is not None:
        quantize(model, options.weights)
    else:
        fuse_layers(model)
    if on_cuda and options.cuda_graphs != "off":
        return GraphedTransformer(model, is_required=options.cuda_graphs == "on")
    return model
