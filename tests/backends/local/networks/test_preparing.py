"""What becomes of a loaded model by its options."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from llmprog.backends.local.networks.cuda_graphs import GraphedTransformer
from llmprog.backends.local.networks.fused_layers import FusedAttention, has_bfloat16_products
from llmprog.backends.local.networks.preparing import prepare
from llmprog.backends.local.networks.quantization import Int8Projection
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions
from llmprog.errors import OptionError


class Foreign(Transformer):
    """A network whose layers are not ours."""

    def __init__(self):
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(4, 4)


def test_layers_are_fused(model):
    prepared = prepare(copy.deepcopy(model), LocalOptions())
    assert type(prepared.layers[0].attention) is FusedAttention


@pytest.mark.skipif(not has_bfloat16_products(), reason="no bfloat16 products on this processor")
def test_weights_are_quantised(model):
    prepared = prepare(copy.deepcopy(model).to(torch.bfloat16), LocalOptions(dtype="bfloat16", weights="int8"))
    assert type(prepared.head) is Int8Projection


def test_a_network_that_is_not_ours_is_left_alone():
    other = Foreign()
    assert prepare(other, LocalOptions()) is other


@pytest.mark.parametrize("options", [LocalOptions(dtype="bfloat16", weights="int4"), LocalOptions(cuda_graphs="on")])
def test_what_would_have_no_effect_on_such_a_network_is_refused(options):
    with pytest.raises(OptionError, match="runs in transformers; leave it out"):
        prepare(Foreign(), options)


def test_graphs_are_refused_on_a_cpu(model):
    with pytest.raises(OptionError, match="has no effect on a CPU"):
        prepare(copy.deepcopy(model), LocalOptions(cuda_graphs="on"))


@pytest.mark.gpu
def test_forward_passes_are_recorded_on_cuda(model):
    assert isinstance(prepare(copy.deepcopy(model).cuda(), LocalOptions()), GraphedTransformer)
    assert not isinstance(prepare(copy.deepcopy(model).cuda(), LocalOptions(cuda_graphs="off")), GraphedTransformer)
