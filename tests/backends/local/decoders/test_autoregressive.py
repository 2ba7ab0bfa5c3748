from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler

CPU = torch.device("cpu")


@pytest.fixture
def decoder(model: Transformer, vocabulary: Vocabulary) -> AutoregressiveDecoder:
    return AutoregressiveDecoder(model, vocabulary)


def next_logits(model: Transformer, vocabulary: Vocabulary, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(
            torch.tensor([tokens]), torch.arange(len(tokens)).unsqueeze(0), attention_masks.causal(len(tokens))
        )[0, -1]
    logits[list(vocabulary.never_sampled)] = -torch.inf
    return logits


def slowly(model: Transformer, vocabulary: Vocabulary, row: Row) -> tuple[list[int], list[float]]:
    """One row, without batch or cache."""
    sampler = Sampler.of([row.params], [row.key], CPU)
    tokens: list[int] = []
    logprobs: list[float] = []
    for step in range(len(row.canvas)):
        logits = next_logits(model, vocabulary, [*row.prompt, *tokens])
        token = int(sampler.sample(logits.unsqueeze(0), step)[0])
        if token == vocabulary.eos_id:
            break
        tokens.append(token)
        logprobs.append(float(logits.log_softmax(0)[token]))
    return tokens, logprobs


def test_a_mixed_batch_with_a_cache_writes_what_single_rows_write_without(
    model: Transformer, vocabulary: Vocabulary, decoder: AutoregressiveDecoder, mixed_rows: list[Row]
) -> None:
    results = write_all(decoder, mixed_rows)
    lengths = set()
    for row, result in zip(mixed_rows, results, strict=True):
        assert result is not None
        tokens, logprobs = slowly(model, vocabulary, row)
        assert list(result.tokens) == tokens
        assert result.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert result.ended == (len(tokens) < len(row.canvas))
        assert result.num_generated == len(tokens) + result.ended
        lengths.add(len(tokens))
    assert len(lengths) > 3, "the rows were meant to finish at different steps"


def fed_shapes(model: Transformer, decoder: AutoregressiveDecoder, rows: list[Row]) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    try:
        write_all(decoder, rows)
    finally:
        hook.remove()
    return shapes


def test_rows_of_one_prompt_share_its_prefill_and_every_step_while_they_agree(
    model: Transformer, decoder: AutoregressiveDecoder, make_row: Callable[..., Row]
) -> None:
    greedy = [make_row((5, 6 + i % 2, 7), 4, sample=i, may_end=False, temperature=0) for i in range(8)]
    assert fed_shapes(model, decoder, greedy) == [(2, 4), (2, 1), (2, 1), (2, 1)]
    warm = [make_row((5, 6, 7), 5, sample=i, may_end=False) for i in range(8)]
    texts = [r.tokens for r in write_all(decoder, warm) if r]
    beginnings = [len({text[:count] for text in texts}) for count in range(1, 5)]
    assert fed_shapes(model, decoder, warm) == [(1, 4), *((count, 1) for count in beginnings)]
    assert beginnings[0] < 8 <= beginnings[-1]


def test_finished_rows_leave_the_batch(
    model: Transformer, decoder: AutoregressiveDecoder, make_row: Callable[..., Row]
) -> None:
    rows = [make_row((5, i), 3 + 5 * (i % 2), sample=i, may_end=False) for i in range(4, 12)]
    assert fed_shapes(model, decoder, rows) == [(8, 3), *[(8, 1)] * 2, *[(4, 1)] * 5]


def test_rows_that_end_while_others_branch(
    model: Transformer, vocabulary: Vocabulary, decoder: AutoregressiveDecoder, make_row: Callable[..., Row]
) -> None:
    rows = [make_row((5, i % 3), 3 + i % 9, sample=i, temperature=0.4 * (i % 4)) for i in range(40)]
    for row, result in zip(rows, write_all(decoder, rows), strict=True):
        assert result is not None
        assert list(result.tokens) == slowly(model, vocabulary, row)[0]


def test_eos_and_special_tokens_are_never_written_where_they_may_not(
    decoder: AutoregressiveDecoder, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    rows = [make_row((5,), 20, sample=i, may_end=i % 2 == 0, temperature=20.0) for i in range(60)]
    for row, result in zip(rows, write_all(decoder, rows), strict=True):
        assert result is not None
        assert not set(result.tokens) & {*vocabulary.never_sampled, vocabulary.eos_id}
        if not row.may_end:
            assert len(result.tokens) == 20


def test_a_stop_check_ends_a_row_where_it_first_holds(
    decoder: AutoregressiveDecoder, make_row: Callable[..., Row]
) -> None:
    free = write_all(decoder, [make_row(length=12, sample=i, may_end=False) for i in range(6)])
    stopped = write_all(
        decoder,
        [
            make_row(
                length=12, sample=i, may_end=False, has_stopped=(lambda tokens: len(tokens) >= 5) if i % 2 else None
            )
            for i in range(6)
        ],
    )
    for i, (a, b) in enumerate(zip(free, stopped, strict=True)):
        assert a is not None
        assert b is not None
        assert b.tokens == (a.tokens[:5] if i % 2 else a.tokens)
        assert b.ended == bool(i % 2)


def test_score_is_the_sum_of_what_was_sampled(decoder: AutoregressiveDecoder, mixed_rows: list[Row]) -> None:
    results = [(row, r) for row, r in zip(mixed_rows, write_all(decoder, mixed_rows), strict=True) if r and r.tokens]
    scores = decoder.score([Continuation(row.prompt, r.tokens) for row, r in results])
    assert len(results) > 5
    for (_, result), score in zip(results, scores, strict=True):
        assert result.logprobs is not None
        assert score == pytest.approx(result.logprobs, abs=1e-4)


def test_the_probabilities_of_all_texts_of_one_length_add_up(
    decoder: AutoregressiveDecoder, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    usable = [t for t in range(vocabulary.size) if t not in vocabulary.never_sampled]
    prompt = make_row().prompt
    pairs = [Continuation(prompt, (a, b)) for a in usable for b in usable]
    total = sum(torch.tensor([sum(s) for s in decoder.score(pairs)]).exp().tolist())
    assert total == pytest.approx(1, abs=1e-4)
