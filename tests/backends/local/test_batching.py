"""What holds for every decoder: a row's text depends on that row alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Decoder, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.hybrid import HybridDecoder
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder, UnmaskOptions
from llmprog.backends.local.transformer import Transformer


def make_decoder(name: str, model: Transformer, vocabulary: Vocabulary) -> Decoder:
    if name == "autoregressive":
        return AutoregressiveDecoder(model, vocabulary)
    if name == "hybrid":
        return HybridDecoder(model, vocabulary, alpha0=0.4, steps=4)
    return MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(threshold=0.4))


@pytest.mark.parametrize("name", ["autoregressive", "masked_diffusion", "hybrid"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_choice_and_order_of_rows_gives_each_row_the_same_text(
    name: str, data: st.DataObject, model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    decoder = make_decoder(name, model, vocabulary)
    prompt = st.lists(st.integers(4, vocabulary.size - 1), min_size=1, max_size=6).map(tuple)
    row = st.builds(
        make_row,
        prompt,
        st.integers(1, 12),
        sample=st.integers(0, 99),
        seed=st.integers(0, 3),
        block_length=st.integers(1, 7),
        may_end=st.booleans(),
        temperature=st.sampled_from([0.0, 0.6, 1.3]),
        top_p=st.sampled_from([1.0, 0.8]),
    )
    rows = data.draw(st.lists(row, min_size=2, max_size=8))
    order = data.draw(st.permutations(range(len(rows))))
    some = order[: data.draw(st.integers(1, len(rows)))]
    together = write_all(decoder, rows)
    for i, result in zip(some, write_all(decoder, [rows[i] for i in some]), strict=True):
        expected = together[i]
        assert expected is not None
        assert result is not None
        assert result.tokens == expected.tokens
        assert (result.ended, result.num_generated) == (expected.ended, expected.num_generated)
