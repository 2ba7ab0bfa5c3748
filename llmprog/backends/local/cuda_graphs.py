"""CUDA graphs: forward passes of recurring shapes are recorded once and replayed, so that launching them costs nothing.

A step that feeds a few tokens is hundreds of small kernels, and on a GPU it takes the host longer to launch them than
the device to run them. A graph replays them as one, on the same memory: so inputs are copied into buffers of a few
sizes (buckets), what is missing to a bucket is padding that nobody sees, and a graph is good only for the cache it was
recorded on. What is captured, and how, is a parameter: the tests replay eagerly, on any device.

Letters in shapes: B rows, L tokens fed, S keys, O output positions, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmprog.backends.local.kv_cache import Cache, FixedPlace, RecordableFeed, bucket
from llmprog.backends.local.transformer import Transformer
from llmprog.log import Log

_LOG = Log("llmprog.backends.local.cuda_graphs")

MOST_TOKENS = 1024
"""A forward pass of more tokens keeps the device busy by itself; it is not recorded."""
MOST_GRAPHS = 32
"""How many recordings are kept; the one not used for longest goes first."""
_WARM_UPS = 2

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Records what a function does on the device; the result does it again and gives what the function gave."""


def capture_on_cuda(run: Callable[[], Tensor]) -> Replay:
    """Record ``run`` as a CUDA graph, after running it twice, since the first runs of kernels allocate and compile."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no type for it
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class _Key(NamedTuple):
    """What a recording is good for."""

    place: FixedPlace
    length: int
    outputs: int


class _Recording(NamedTuple):
    """A recorded forward pass and the buffers that it reads."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    output: Tensor
    columns: Tensor
    replay: Replay


class GraphedTransformer(Transformer):
    """A model whose short forward passes are replayed: without a cache, and on caches that can stay in place."""

    def __init__(self, model: Transformer, *, is_required: bool, capture: Capture = capture_on_cuda) -> None:
        """The same function as ``model``, for inference.

        Args:
            model: On its device, in its final form.
            is_required: Raise if recording fails; otherwise, go on without.
            capture: Records a forward pass.
        """
        nn.Module.__init__(self)
        self.config = model.config
        self.embedding = model.embedding
        self.inner = model
        self._capture: Capture | None = capture
        self._is_required = is_required
        self._recordings: OrderedDict[_Key, _Recording] = OrderedDict()

    @property
    def num_recordings(self) -> int:
        """How many forward passes are recorded."""
        return len(self._recordings)

    @torch.inference_mode()
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Cache | None = None,
        store: int | None = None,
        output: Tensor | slice | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """See ``Transformer``."""
        rows, length = tokens.shape
        feed = cache if isinstance(cache, RecordableFeed) else None
        is_short = rows * length <= MOST_TOKENS and added is None and self._capture is not None
        place = feed.fixed_place if feed is not None and is_short else None
        if not is_short or (cache is not None and place is None):
            return self.inner(tokens, positions, mask, cache, store, output, added)  # type: ignore[no-any-return]
        places = _indices(output, length, rows, tokens.device)
        recording = self._recorded(tokens, places, feed, place)
        if recording is None:
            return self.inner(tokens, positions, mask, cache, store, output, added)  # type: ignore[no-any-return]
        _fill(recording, tokens, positions, mask, places, feed)
        logits = recording.replay()[:rows, : places.shape[1]].clone()
        if cache is not None:
            cache.advance(length if store is None else store)
        return logits

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Cache | None = None,
        store: int | None = None,
        output: Tensor | slice | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """See ``Transformer``; it is not recorded."""
        return self.inner.hidden(tokens, positions, mask, cache, store, output, added)

    def unembed(self, hidden: Tensor) -> Tensor:
        """See ``Transformer``; it is not recorded."""
        return self.inner.unembed(hidden)

    def _recorded(
        self, tokens: Tensor, places: Tensor, feed: RecordableFeed | None, place: FixedPlace | None
    ) -> _Recording | None:
        """The recording that fits these inputs, made now if there is none; ``None`` if it cannot be made."""
        if place is None:
            place = FixedPlace((), bucket(tokens.shape[0]), bucket(tokens.shape[1]))
        # Every token fed takes a place in a cache, so there is no padding of them where there is one.
        length = place.width if feed is None else tokens.shape[1]
        # A cache that has grown has moved: what was recorded on its old memory is found no more, and goes in time.
        key = _Key(place, length, bucket(places.shape[1]))
        found = self._recordings.get(key)
        if found is None:
            try:
                found = self._record(key, tokens.device, feed)
            except RuntimeError as error:
                if self._is_required:
                    raise
                _LOG.warning("cuda_graphs.off", error=str(error))
                self._capture = None
                self._recordings.clear()
                return None
            self._recordings[key] = found
            if len(self._recordings) > MOST_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        return found

    def _record(self, key: _Key, device: torch.device, feed: RecordableFeed | None) -> _Recording:
        tokens = torch.zeros(key.place.rows, key.length, dtype=torch.int64, device=device)
        positions = torch.zeros_like(tokens)
        mask = torch.ones(key.place.rows, key.length, key.place.width, dtype=torch.bool, device=device)
        output = torch.zeros(key.place.rows, key.outputs, dtype=torch.int64, device=device)
        columns = torch.zeros_like(tokens)
        cache = None if feed is None else feed.fixed(key.place, columns)
        if self._capture is None:
            raise RuntimeError("recording is off")
        replay = self._capture(lambda: self.inner(tokens, positions, mask, cache, None, output))
        return _Recording(tokens, positions, mask, output, columns, replay)


def _fill(
    recording: _Recording, tokens: Tensor, positions: Tensor, mask: Tensor, places: Tensor, feed: RecordableFeed | None
) -> None:
    """Copy the inputs into a recording's buffers; padding is token 0 at position 0, seen by nobody, seeing one key."""
    rows, length = tokens.shape
    for buffer, value in ((recording.tokens, tokens), (recording.positions, positions), (recording.output, places)):
        buffer.zero_()
        buffer[:rows, : value.shape[1]] = value
    recording.mask.zero_()
    recording.mask[:, :, 0] = True  # a softmax over nothing is not a number
    recording.mask[:rows, :length, : mask.shape[2]] = mask
    if feed is not None:
        # Rows of padding write into memory behind that in use.
        recording.columns.zero_()
        recording.columns[:rows] = feed.columns


def _indices(output: Tensor | slice | None, length: int, rows: int, device: torch.device) -> Tensor:
    """Which positions get logits, int64 [B, O]."""
    if isinstance(output, Tensor) and output.dim() == 2:
        return output
    every = torch.arange(length, device=device)
    if isinstance(output, slice):
        every = every[output]
    elif output is not None:
        every = output
    return every.expand(rows, -1)
