"""What every decoder's writing keeps: a row says what it would say alone, whenever it joins and whoever leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Decoder, Row, Vocabulary, Written, write_all
from llmprog.backends.local.decoders.block_diffusion import BlockDiffusionDecoder
from llmprog.backends.local.decoders.cached_diffusion import CacheOptions
from llmprog.backends.local.decoders.hybrid import HybridDecoder
from llmprog.backends.local.decoders.hybrid_a import HybridADecoder
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.masked_writing import MaskedWriting
from llmprog.backends.local.decoders.mdlm import MDLMDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.score_entropy import ScoreEntropyDecoder
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder, UniformOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks.transformer import Transformer

DECODERS: dict[str, Callable[[Transformer, Vocabulary], Decoder]] = {
    "autoregressive": AutoregressiveDecoder,
    "forgetful": lambda model, vocabulary: AutoregressiveDecoder(model, vocabulary, prefix_memory=0),
    "hybrid": lambda model, vocabulary: HybridDecoder(model, vocabulary, alpha0=0.5, steps=4),
    "variant a": lambda model, vocabulary: HybridADecoder(model, vocabulary, alpha0=0.5, steps=4),
    "uniform": lambda model, vocabulary: UniformDiffusionDecoder(
        model, vocabulary, UniformOptions(steps=6, entropy_bound=2.0, stop_entropy=0.5)
    ),
    "ancestral": lambda model, vocabulary: MDLMDecoder(model, vocabulary, steps=4),
    "first hitting": lambda model, vocabulary: MDLMDecoder(model, vocabulary, sampler="first_hitting"),
    "score entropy": lambda model, vocabulary: ScoreEntropyDecoder(model, vocabulary, steps=4),
    "threshold": lambda model, vocabulary: MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(threshold=0.3)),
    "quota": lambda model, vocabulary: MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(unmask="quota")),
    "credit": lambda model, vocabulary: MaskedDiffusionDecoder(
        model, vocabulary, UnmaskOptions(unmask="credit", threshold=0.5)
    ),
    "cached": lambda model, vocabulary: MaskedDiffusionDecoder(
        model, vocabulary, UnmaskOptions(unmask="quota"), cache=CacheOptions(kind="dual", refresh_every=2)
    ),
    "remasked": lambda model, vocabulary: MaskedDiffusionDecoder(
        model, vocabulary, UnmaskOptions(unmask="random"), CorrectionOptions(remask="cap", remask_eta=0.3)
    ),
    "edited": lambda model, vocabulary: MaskedDiffusionDecoder(
        model, vocabulary, UnmaskOptions(threshold=0.3), CorrectionOptions(edit_threshold=0.3)
    ),
    "blocks": lambda model, vocabulary: BlockDiffusionDecoder(
        model, vocabulary, UnmaskOptions(unmask="credit", threshold=0.5)
    ),
}

MAY_PAUSE = ("uniform_diffusion", "score_entropy")
"""Decoders that make steps in which nothing is written."""


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, model: Transformer, vocabulary: Vocabulary) -> Decoder:
    return DECODERS[request.param](model, vocabulary)


def test_rows_that_join_later_say_what_they_say_alone(decoder: Decoder, mixed_rows: list[Row]) -> None:
    alone = [write_all(decoder, [row])[0] for row in mixed_rows]
    writing = decoder.start()
    found: dict[int, Written] = {}
    waiting = dict(enumerate(mixed_rows))
    while waiting or len(writing):
        if not len(writing):
            writing = decoder.start()
        room = writing.room(list(waiting.values())[:2]) if waiting else 0
        joining = {ticket: waiting.pop(ticket) for ticket in list(waiting)[:room]}
        writing.admit(joining)
        found |= writing.step()
    assert [found[i].tokens for i in range(len(mixed_rows))] == [result.tokens for result in alone]
    assert [found[i].ended for i in range(len(mixed_rows))] == [result.ended for result in alone]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_choice_and_order_of_rows_gives_each_row_the_same_text(
    data: st.DataObject, decoder: Decoder, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
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
        assert result.tokens == expected.tokens
        assert (result.ended, result.num_generated) == (expected.ended, expected.num_generated)


def test_rows_that_come_and_go_leave_nothing_behind(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    writing = MaskedDiffusionDecoder(model, vocabulary).start()
    assert isinstance(writing, MaskedWriting)
    for turn in range(18):
        # One row is always under way, so nothing is begun anew.
        writing.admit({2 * turn: make_row((5, 4 + turn), 20, may_end=False), 2 * turn + 1: make_row((4 + turn,), 3)})
        writing.step()
        writing.drop([2 * turn - 2])
        assert sorted(writing._kinds) == list(range(len(writing)))
        assert len(writing) > 0


def test_rows_that_are_dropped_are_not_missed(decoder: Decoder, mixed_rows: list[Row]) -> None:
    alone = write_all(decoder, mixed_rows)
    writing = decoder.start()
    writing.admit(dict(enumerate(mixed_rows)))
    found = dict(writing.step())
    gone = {i for i in range(0, len(mixed_rows), 3) if i not in found}
    assert gone
    writing.drop(gone)
    while len(writing):
        found |= writing.step()
    assert set(found) == set(range(len(mixed_rows))) - gone
    assert all(found[i].tokens == alone[i].tokens for i in found)


def test_a_row_can_be_read_while_it_is_written(
    decoder: Decoder, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    row = make_row(length=12, may_end=False)
    writing = decoder.start()
    writing.admit({4: row})
    texts = [writing.text(4)]
    found: dict[int, Written] = {}
    while True:
        found |= writing.step()
        if not len(writing):
            break
        texts.append(writing.text(4))
    assert texts[0] == row.canvas
    assert all(len(text) == 12 for text in texts)
    if not decoder.keeps_tokens:
        assert any(a not in (b, vocabulary.mask_id) for one in texts for a, b in zip(one, found[4].tokens, strict=True))
        return
    blanks = [text.count(vocabulary.mask_id) for text in texts]
    assert blanks == sorted(blanks, reverse=True)
    assert len(set(blanks)) == len(blanks) or decoder.name in MAY_PAUSE
    for text in texts:
        assert all(token in (vocabulary.mask_id, last) for token, last in zip(text, found[4].tokens, strict=True))
