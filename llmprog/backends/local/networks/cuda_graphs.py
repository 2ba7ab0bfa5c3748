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
from weakref import WeakSet

import torch
from torch import Tensor, nn

from llmprog.backends.local.caches.recordable_feed import FixedPlace, RecordableFeed, bucket
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.log import Log

_LOG = Log("llmprog.backends.local.networks.cuda_graphs")

MOST_TOKENS = 1024
"""A forward pass of more tokens keeps the device busy by itself; it is not recorded."""
MOST_GRAPHS = 32
"""How many recordings are kept; the one not used for longest goes first."""
MOST_MET = 256
"""How many shapes that came once are remembered; a pass is recorded when it comes again."""
_WARM_UPS = 2

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Records what a function does on the device; the result does it again and gives what the function gave."""


class CaptureOnCuda:
    """Records CUDA graphs that share their memory: of one model, replayed one after the other, never at once."""

    def __init__(self) -> None:
        """No graphs yet."""
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, run: Callable[[], Tensor]) -> Replay:
        """Record ``run``, after running it twice, since the first runs of kernels allocate and compile."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no type for it
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        # Memory that no graph is left to hold cannot be recorded in again: the next graph has memory of its own.
        pool = next((graph.pool() for graph in self._graphs), None)
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the device meanwhile: what it does there is no part of this.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = run()
        self._graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class _Key(NamedTuple):
    """What a recording is good for."""

    place: FixedPlace
    length: int
    outputs: int


class _Buffers(NamedTuple):
    """What a recorded forward pass reads."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    output: Tensor
    columns: Tensor

    @classmethod
    def of(cls, key: _Key, device: torch.device) -> _Buffers:
        """Buffers of the sizes in ``key``."""
        rows, width = key.place.rows, key.place.width
        tokens = torch.zeros(rows, key.length, dtype=torch.int64, device=device)
        mask = torch.zeros(rows, key.length, width, dtype=torch.bool, device=device)
        output = torch.zeros(rows, key.outputs, dtype=torch.int64, device=device)
        return cls(tokens, torch.zeros_like(tokens), mask, output, torch.zeros_like(tokens))

    def fill(self, tokens: Tensor, positions: Tensor, mask: Tensor, output: Tensor, columns: Tensor | None) -> None:
        """Copy inputs in; padding is seen by nobody, sees one key, and is written where nothing is."""
        rows, length = tokens.shape
        given = [(self.tokens, tokens), (self.positions, positions), (self.output, output)]
        if columns is not None:
            given.append((self.columns, columns))
        for buffer, value in given:
            buffer.zero_()
            buffer[:rows, : value.shape[1]] = value
        self.mask.zero_()
        self.mask[:, :, 0] = True  # a softmax over nothing is not a number
        self.mask[:rows, :length, : mask.shape[2]] = mask


class _Recording(NamedTuple):
    """A recorded forward pass."""

    buffers: _Buffers
    replay: Replay


class GraphedTransformer(Transformer):
    """A model whose short forward passes are replayed: without a cache, and on caches that can stay in place."""

    def __init__(self, model: Transformer, *, is_required: bool, capture: Capture | None = None) -> None:
        """The same function as ``model``, for inference.

        Args:
            model: On its device, in its final form.
            is_required: Raise if recording fails; otherwise, go on without.
            capture: Records a forward pass; ``None`` is a ``CaptureOnCuda`` of its own.
        """
        nn.Module.__init__(self)
        self.config = model.config
        self.embedding = model.embedding
        self.inner = model
        self._capture: Capture | None = CaptureOnCuda() if capture is None else capture
        self._is_required = is_required
        self._recordings: OrderedDict[_Key, _Recording] = OrderedDict()
        self._met: OrderedDict[_Key, None] = OrderedDict()

    @property
    def num_recordings(self) -> int:
        """How many forward passes are recorded."""
        return len(self._recordings)

    def clear(self) -> None:
        """Forget all recordings, and so free the memory they hold; passes that recur are recorded anew."""
        self._recordings.clear()
        self._met.clear()

    @torch.inference_mode()
    def logits(self, given: ForwardPass) -> Tensor:
        """See ``Transformer``. Where memory runs out, the recordings are forgotten, and the error goes on."""
        try:
            return self._logits(given)
        except torch.OutOfMemoryError:
            self.clear()
            raise

    def _logits(self, given: ForwardPass) -> Tensor:
        tokens, cache = given.tokens, given.cache
        rows, length = tokens.shape
        feed = cache if isinstance(cache, RecordableFeed) else None
        is_short = rows * length <= MOST_TOKENS and given.added is None and self._capture is not None
        place = feed.stay_in_place() if feed is not None and is_short else None
        if not is_short or (cache is not None and place is None):
            return self.inner.logits(given)
        places = _indices(given.output, length, rows, tokens.device)
        key = self._key(tokens, places, place)
        if key not in self._recordings and not self._recurs(key):
            return self.inner.logits(given)
        buffers = self._recordings[key].buffers if key in self._recordings else _Buffers.of(key, tokens.device)
        # Filled before recording, too: the runs before it write into the cache what the replay will.
        buffers.fill(tokens, given.positions, given.mask, places, None if feed is None else feed.columns)
        replay = self._recorded(key, buffers, feed)
        if replay is None:
            return self.inner.logits(given)
        logits = replay()[:rows, : places.shape[1]].clone()
        if cache is not None:
            cache.advance(given.num_stored)
        return logits

    def hidden(self, given: ForwardPass) -> Tensor:
        """See ``Transformer``; it is not recorded."""
        return self.inner.hidden(given)

    def unembed(self, hidden: Tensor) -> Tensor:
        """See ``Transformer``; it is not recorded."""
        return self.inner.unembed(hidden)

    def _key(self, tokens: Tensor, places: Tensor, place: FixedPlace | None) -> _Key:
        """What a recording for these inputs has to be good for."""
        if place is None:
            length = bucket(tokens.shape[1])
            return _Key(FixedPlace((), bucket(tokens.shape[0]), length), length, bucket(places.shape[1]))
        # Every token fed takes a place in the cache, so there is no padding of them.
        return _Key(place, tokens.shape[1], bucket(places.shape[1]))

    def _recurs(self, key: _Key) -> bool:
        """Whether a pass like this came before: prompts of some length come once, steps again and again."""
        if key in self._met:
            del self._met[key]
            return True
        self._met[key] = None
        if len(self._met) > MOST_MET:
            self._met.popitem(last=False)
        return False

    def _recorded(self, key: _Key, buffers: _Buffers, feed: RecordableFeed | None) -> Replay | None:
        """What replays the pass that fits ``key``, recorded now if it was not; ``None`` if that is not possible."""
        # A cache that has grown has moved: what was recorded on its old memory is found no more, and goes in time.
        found = self._recordings.get(key)
        if found is None and self._capture is not None:
            cache = None if feed is None else feed.fixed(key.place, buffers.columns)
            try:
                replay = self._capture(
                    lambda: self.inner(buffers.tokens, buffers.positions, buffers.mask, cache, None, buffers.output)
                )
            except RuntimeError as error:
                # Memory that is short is the engine's business: it makes the batch smaller.
                if self._is_required or isinstance(error, torch.OutOfMemoryError):
                    raise
                _LOG.warning("cuda_graphs.off", error=str(error))
                self._capture = None
                self.clear()
                return None
            found = self._recordings[key] = _Recording(buffers, replay)
            if len(self._recordings) > MOST_GRAPHS:
                self._recordings.popitem(last=False)
        if found is None:
            return None
        self._recordings.move_to_end(key)
        return found.replay


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
