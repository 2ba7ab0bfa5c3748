from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders import prefill
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.errors import InputError


@pytest.fixture
def fed(model: Transformer):
    """The shapes of what goes through the network."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    yield shapes
    hook.remove()


def test_a_common_beginning_is_fed_once_and_known_afterwards(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], fed: list[tuple[int, ...]]
) -> None:
    decoder = AutoregressiveDecoder(model, vocabulary)
    shared = tuple(4 + i % 20 for i in range(30))
    rows = [make_row((*shared, 5 + i, 6), 1, sample=i) for i in range(6)]
    alone = [write_all(AutoregressiveDecoder(model, vocabulary), [row])[0] for row in rows]
    fed.clear()
    together = write_all(decoder, rows)
    assert fed == [(1, 33), (5, 2)], "the first prompt, then of the others what is their own"
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    assert [result.num_known for result in together] == [0, 31, 31, 31, 31, 31]
    counts = decoder.prefill_counts
    assert (counts.tokens, counts.fed) == (6 * 33, 33 + 5 * 2)
    assert counts.saved == pytest.approx(1 - 43 / 198)

    fed.clear()
    later = write_all(decoder, [make_row((*shared, 5, 6), 1), make_row((*shared, 9, 9), 1)])
    assert fed == [(2, 1)]
    assert [result.num_known for result in later] == [32, 32]


def test_a_reply_is_known_to_the_prompt_that_goes_on_with_it(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], fed: list[tuple[int, ...]]
) -> None:
    decoder = AutoregressiveDecoder(model, vocabulary)
    row = make_row(tuple(range(4, 20)), 12, may_end=False)
    reply = write_all(decoder, [row])[0].tokens
    fed.clear()
    (result,) = write_all(decoder, [make_row((*row.prompt[1:], *reply, 8), 1)])
    assert fed == [(1, 2)]  # the last token of the reply had not been fed
    assert result.num_known == len(row.prompt) + len(reply) - 1


def test_what_was_read_before_changes_no_likelihood(model: Transformer, vocabulary: Vocabulary) -> None:
    shared = (3, *(4 + i % 20 for i in range(25)))
    asked = [Continuation((*shared, 5 + i), (7, 8, 9)[: 1 + i % 3]) for i in range(5)]
    forgetful = AutoregressiveDecoder(model, vocabulary, prefix_memory=0)
    decoder = AutoregressiveDecoder(model, vocabulary)
    expected = forgetful.score(asked)
    for _ in range(2):
        for found, wanted in zip(decoder.score(asked), expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5)
    assert forgetful.prefill_counts.saved == 0
    assert decoder.prefill_counts.saved > 0.8


def test_a_long_prompt_goes_through_in_parts(
    model: Transformer,
    vocabulary: Vocabulary,
    make_row: Callable[..., Row],
    fed: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [make_row(tuple(4 + (i * j) % 20 for j in range(1, 9 * i)), 3, sample=i) for i in (2, 3, 4)]
    whole = write_all(AutoregressiveDecoder(model, vocabulary), rows)
    fed.clear()
    monkeypatch.setattr(prefill, "PREFILL_TOKENS", 16)
    parts = write_all(AutoregressiveDecoder(model, vocabulary), rows)
    assert [result.tokens for result in parts] == [result.tokens for result in whole]
    assert max(count * length for count, length in fed) <= 16


def test_rows_wait_for_memory_and_one_that_never_fits_is_refused(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    per_token = model.kv_shape.bytes_per_token(torch.float32)
    decoder = AutoregressiveDecoder(model, vocabulary, kv_memory=1)
    tokens = 2**20 // per_token
    writing = decoder.start()
    rows = [make_row((5,), 50, sample=i) for i in range(tokens)]
    assert writing.room(rows) == tokens // 64  # a slot of 52 tokens is rounded up
    writing.admit(dict(enumerate(rows[:3])))
    assert writing.room(rows) == tokens // 64 - 3
    for beside in (writing, decoder.start()):  # it need not wait for the others to be refused
        with pytest.raises(InputError, match=f"kv_memory has room for {tokens}"):
            beside.room([make_row((5,), tokens)])
