"""Replayed forward passes: the buckets and buffers, replayed eagerly here and by CUDA graphs where there is a GPU."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from llmprog.backends.local.caches.recordable_feed import bucket
from llmprog.backends.local.caches.slot_cache import SlotCache
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import write_all
from llmprog.backends.local.decoders.cached_diffusion import CacheOptions
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.cuda_graphs import MOST_GRAPHS, MOST_TOKENS, CaptureOnCuda, GraphedTransformer


class Eager:
    """Captures by remembering the function, after running it as CUDA's capture does; counts captures and replays."""

    def __init__(self):
        self.captured = self.replayed = 0

    def __call__(self, run):
        self.captured += 1
        run()

        def replay():
            self.replayed += 1
            return run()

        return replay


@pytest.fixture
def capture():
    return Eager()


@pytest.fixture
def graphed(model, capture):
    return GraphedTransformer(model, is_required=True, capture=capture)


def inputs(rows, length, seed=0):
    torch.manual_seed(seed)
    tokens = torch.randint(4, 24, (rows, length))
    valid = torch.arange(length) >= torch.randint(0, length, (rows, 1))
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    return tokens, positions, attention_masks.bidirectional(valid)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 31, 32, 33, 64, 65, 1000])
def test_a_bucket_holds_its_size_and_wastes_at_most_half(size):
    assert size <= bucket(size) < max(2 * size, size + 32)
    assert bucket(bucket(size)) == bucket(size)


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("kind", ["all", "slice", "indices", "indices of rows"])
@torch.inference_mode()
def test_without_a_cache_logits_are_the_model_s(model, graphed, rows, length, kind):
    outputs = {
        "all": None,
        "slice": slice(-3, None),
        "indices": torch.tensor([0, length - 1]),
        "indices of rows": torch.randint(0, length, (rows, 3)),
    }
    arguments = inputs(rows, length, seed=rows)
    truth = model(*arguments, output=outputs[kind])
    for _ in range(3):
        torch.testing.assert_close(graphed(*arguments, output=outputs[kind]), truth, rtol=1e-4, atol=1e-4)
    assert graphed.num_recordings == 1


@torch.inference_mode()
def test_what_falls_into_one_bucket_is_recorded_once_and_nothing_is_left_of_the_pass_before(model, graphed, capture):
    for rows, length in ((8, 16), (5, 9), (7, 12), (8, 16)):
        arguments = inputs(rows, length, seed=length)
        torch.testing.assert_close(graphed(*arguments), model(*arguments), rtol=1e-4, atol=1e-4)
    assert capture.captured == graphed.num_recordings == 1
    assert capture.replayed == 3


@torch.inference_mode()
def test_a_pass_is_recorded_when_it_comes_again(graphed, capture):
    for length in range(1, 17):
        graphed(*inputs(1, length))
    assert capture.captured == graphed.num_recordings == 3  # 3 and 4, 5 to 8, 9 to 16


@torch.inference_mode()
def test_a_result_is_not_overwritten_by_the_next_replay(graphed):
    graphed(*inputs(2, 4, seed=1))
    first = graphed(*inputs(2, 4, seed=1))
    kept = first.clone()
    graphed(*inputs(2, 4, seed=2))
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_slots_are_fed_as_without_recording_while_the_slab_grows(model, graphed, capture):
    torch.manual_seed(4)
    caches = [SlotCache(model.kv_shape, device="cpu", dtype=torch.float32) for _ in range(2)]
    for cache in caches:
        cache.add([[], [], []])
    for step in range(40):
        if step == 20:
            for cache in caches:
                cache.truncate(1, 5)
        tokens = torch.randint(4, 24, (3, 1 + step % 2))
        results = []
        for network, cache in zip((model, graphed), caches, strict=True):
            feed = cache.feed(0, 3, tokens.shape[1])
            results.append(network(tokens, feed.positions, feed.mask, feed))
        torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)
        assert caches[0].lengths == caches[1].lengths
    assert 4 <= capture.captured < capture.replayed < 40


@torch.inference_mode()
def test_only_the_tokens_to_be_stored_are_counted(graphed, model):
    cache = SlotCache(model.kv_shape, device="cpu", dtype=torch.float32)
    cache.add([[], []])
    for stored in (1, 2, 3):
        feed = cache.feed(0, 2, 3)
        graphed(torch.full((2, 3), 5), feed.positions, feed.mask, feed, store=1)
        assert cache.lengths == [stored, stored]


@torch.inference_mode()
def test_slots_that_are_not_fed_are_not_written_by_padding(model, graphed, capture):
    cache = SlotCache(model.kv_shape, device="cpu", dtype=torch.float32)
    cache.add([[] for _ in range(5)])
    for _ in range(3):
        feed = cache.feed(0, 5, 2)
        graphed(torch.full((5, 2), 6), feed.positions, feed.mask, feed, store=1)
    before = cache.segment(3, 0, 2)
    for _ in range(2):
        feed = cache.feed(0, 3, 1)  # a bucket of four rows would reach into the fourth slot
        graphed(torch.full((3, 1), 7), feed.positions, feed.mask, feed)
    after = cache.segment(3, 0, 2)
    assert torch.equal(before.keys, after.keys)
    assert torch.equal(before.values, after.values)
    assert capture.captured == 1


@torch.inference_mode()
def test_what_is_long_or_kept_elsewhere_is_not_recorded(model, graphed, capture):
    rows = MOST_TOKENS // 32 + 1
    tokens, positions, mask = inputs(2, 4)
    for _ in range(2):
        graphed(*inputs(rows, 32))
        cache = model.make_cache(1, 8)
        graphed(torch.tensor([[5]]), torch.tensor([[0]]), torch.ones(1, 1, 1, dtype=torch.bool), cache)
        assert cache.length == 1
        graphed(tokens, positions, mask, added=torch.zeros(2, 4, model.config.d_model))
    assert capture.captured == 0


@torch.inference_mode()
def test_the_recordings_kept_are_bounded_and_the_oldest_goes(graphed, capture):
    shapes = [(rows, length) for rows in (1, 2, 4, 8, 16) for length in (1, 2, 4, 8, 16, 32, 48)]
    for rows, length in shapes * 2:
        graphed(*inputs(rows, length))
    assert graphed.num_recordings == MOST_GRAPHS < len(shapes)
    captured = capture.captured
    graphed(*inputs(*shapes[-1]))
    assert capture.captured == captured
    for _ in range(2):
        graphed(*inputs(*shapes[0]))
    assert capture.captured == captured + 1


def fail(run):
    raise RuntimeError("operation not permitted when stream is capturing")


@torch.inference_mode()
def test_where_recording_fails_the_model_goes_on_without(model):
    arguments = inputs(2, 5)
    graphed = GraphedTransformer(model, is_required=False, capture=fail)
    for _ in range(3):
        torch.testing.assert_close(graphed(*arguments), model(*arguments))
    assert graphed.num_recordings == 0


def test_where_recording_is_required_its_failure_is_an_error(model):
    graphed = GraphedTransformer(model, is_required=True, capture=fail)
    graphed(*inputs(2, 5))
    with pytest.raises(RuntimeError, match="not permitted"):
        graphed(*inputs(2, 5))


def cached(kind):
    return partial(MaskedDiffusionDecoder, cache=CacheOptions(kind=kind))


KINDS = [AutoregressiveDecoder, MaskedDiffusionDecoder, cached("prefix"), cached("dual")]


def run_out_of_memory(run):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_lack_of_memory_is_left_to_the_engine(model):
    graphed = GraphedTransformer(model, is_required=False, capture=run_out_of_memory)
    graphed(*inputs(2, 5))
    with pytest.raises(torch.OutOfMemoryError):
        graphed(*inputs(2, 5))


@torch.inference_mode()
def test_where_memory_runs_out_recordings_are_forgotten_and_made_anew(model, capture):
    is_full = False

    def fill_up(*_):
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory")

    graphed = GraphedTransformer(model, is_required=True, capture=capture)
    arguments = inputs(2, 5)
    for _ in range(2):
        graphed(*arguments)
    assert graphed.num_recordings == 1
    hook = model.embedding.register_forward_pre_hook(fill_up)
    try:
        is_full = True
        with pytest.raises(torch.OutOfMemoryError):
            graphed(*inputs(MOST_TOKENS // 32 + 1, 32))  # one that is not recorded
        assert graphed.num_recordings == 0
        is_full = False
        for _ in range(2):
            torch.testing.assert_close(graphed(*arguments), model(*arguments), rtol=1e-4, atol=1e-4)
    finally:
        hook.remove()
    assert (graphed.num_recordings, capture.captured) == (1, 2)


def test_graphs_of_a_model_share_memory_until_none_is_left(monkeypatch):
    """A stand-in for CUDA says in which pool each graph is recorded; that this runs, the tests on a GPU show."""
    pools = []

    class Graph:
        def __init__(self):
            self.memory = None

        def pool(self):
            return self.memory

        def replay(self):
            pass

    @contextmanager
    def graph(recorded, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        recorded.memory = next(handles) if pool is None else pool
        pools.append(recorded.memory)
        yield

    stream = SimpleNamespace(wait_stream=lambda _: None)
    handles = iter(range(9))
    for name, value in (
        ("Stream", lambda: stream),
        ("current_stream", lambda: stream),
        ("stream", nullcontext),
        ("CUDAGraph", Graph),
        ("graph", graph),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    capture = CaptureOnCuda()
    recordings = [capture(lambda: torch.ones(1)) for _ in range(3)]
    assert recordings[0]().item() == 1
    del recordings[0]
    recordings.append(capture(lambda: torch.ones(1)))
    recordings.clear()
    recordings.append(capture(lambda: torch.ones(1)))
    CaptureOnCuda()(lambda: torch.ones(1))
    assert pools == [0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_write_the_same(model, graphed, vocabulary, mixed_rows, capture, kind):
    truth = write_all(kind(model, vocabulary), mixed_rows)
    assert [r.tokens for r in write_all(kind(graphed, vocabulary), mixed_rows)] == [r.tokens for r in truth]
    assert capture.replayed > 0


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_decoders_write_the_same_by_cuda_graphs(model, vocabulary, mixed_rows, kind):
    import copy

    on_gpu = copy.deepcopy(model).cuda().requires_grad_(False)
    graphed = GraphedTransformer(on_gpu, is_required=True)
    truth = write_all(kind(on_gpu, vocabulary), mixed_rows)
    assert [r.tokens for r in write_all(kind(graphed, vocabulary), mixed_rows)] == [r.tokens for r in truth]
    assert graphed.num_recordings > 0
    graphed.clear()
    assert [r.tokens for r in write_all(kind(graphed, vocabulary), mixed_rows)] == [r.tokens for r in truth]
    assert graphed.num_recordings > 0
