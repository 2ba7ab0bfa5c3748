from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence

import pytest
import torch

from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, Written
from llmprog.backends.local.engine import Engine
from llmprog.backends.local.transformer import Transformer
from llmprog.errors import BackendError, InputError


class EchoDecoder:
    """Writes each row's prompt; records its batches; can be told to wait, to fail and to run out of memory."""

    name = "echo"
    score_is_bound = False

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.scored: list[int] = []
        self.fits = 10**9
        self.poison: dict[int, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.seen_cancelled: list[set[int]] = []
        self.threads: set[str] = set()

    def decode(self, rows: Sequence[Row], cancelled: Callable[[], Collection[int]] = tuple) -> list[Written | None]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(len(rows))
        self.started.set()
        assert self.gate.wait(10)
        if len(rows) > self.fits:
            raise torch.OutOfMemoryError("no room")
        for row in rows:
            if row.prompt[-1] in self.poison:
                raise self.poison[row.prompt[-1]]
        gone = cancelled()
        self.seen_cancelled.append(set(gone))
        return [
            None if i in gone else Written(tokens=row.prompt, ended=True, num_generated=1) for i, row in enumerate(rows)
        ]

    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        self.scored.append(len(continuations))
        return [tuple(-float(t) for t in c.tokens) for c in continuations]


@pytest.fixture
def decoder() -> EchoDecoder:
    return EchoDecoder()


@pytest.fixture
async def engine(decoder: EchoDecoder):
    engine = Engine(decoder, backend="local:echo", max_batch_rows=100)
    yield engine
    decoder.gate.set()
    await engine.aclose()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def test_what_is_submitted_together_becomes_one_batch(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    async def later(turns: int, i: int) -> list[Written]:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await engine.decode([make_row((i,)), make_row((i, i))])

    results = await asyncio.gather(*(later(i % 3, i) for i in range(12)))
    assert decoder.batches == [24]
    assert [[r.tokens for r in result] for result in results] == [[(3, i), (3, i, i)] for i in range(12)]
    assert len(decoder.threads) == 1


async def test_replies_wake_their_callers_together_so_the_next_frontier_is_one_batch_again(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    async def chain(i: int) -> None:
        for step in range(3):
            await engine.decode([make_row((i, step))])

    await asyncio.gather(*(chain(i) for i in range(5)))
    assert decoder.batches == [5, 5, 5]


async def test_large_calls_are_split_and_what_waits_meanwhile_is_gathered(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.gate.clear()
    first = asyncio.create_task(engine.decode([make_row((5, i)) for i in range(130)]))
    await until(decoder.started)
    others = [asyncio.create_task(engine.decode([make_row((6,))])) for _ in range(3)]
    await asyncio.sleep(0.01)
    decoder.gate.set()
    assert [r.tokens for r in await first] == [(3, 5, i) for i in range(130)]
    await asyncio.gather(*others)
    assert decoder.batches == [100, 33]


async def test_scores_and_decoding_are_batched_apart(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    rows = [engine.decode([make_row((i,))]) for i in range(3)]
    scores = [engine.score([Continuation((3,), (i,)), Continuation((3,), (i, 7))]) for i in range(3)]
    results = await asyncio.gather(*rows, *scores)
    assert decoder.batches == [3]
    assert decoder.scored == [6]
    assert results[3:] == [[(-float(i),), (-float(i), -7.0)] for i in range(3)]
    assert await engine.decode([]) == []


async def test_an_error_reaches_exactly_its_callers(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.poison = {8: ValueError("boom"), 9: InputError("too strange")}
    calls = [engine.decode([make_row((i,)), make_row((4,))]) for i in (7, 8, 9, 10)]
    seven, eight, nine, ten = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(seven, list)
    assert isinstance(ten, list)
    assert isinstance(eight, BackendError)
    assert "ValueError: boom" in str(eight)
    assert eight.backend == "local:echo"
    assert isinstance(eight.__cause__, ValueError)
    assert isinstance(nine, InputError)
    assert await engine.decode([make_row((4,))])


async def test_a_cancelled_caller_is_dropped_while_it_waits(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.gate.clear()
    first = asyncio.create_task(engine.decode([make_row((5,))]))
    await until(decoder.started)
    waiting = asyncio.create_task(engine.decode([make_row((6,))] * 10))
    other = asyncio.create_task(engine.decode([make_row((7,))] * 2))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.sleep(0.01)
    decoder.gate.set()
    await asyncio.gather(first, other)
    assert decoder.batches == [1, 2]
    assert waiting.cancelled()


async def test_a_cancelled_caller_is_dropped_from_the_running_batch(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.gate.clear()
    stays = asyncio.create_task(engine.decode([make_row((5,))] * 2))
    goes = asyncio.create_task(engine.decode([make_row((6,))] * 3))
    await until(decoder.started)
    goes.cancel()
    await asyncio.sleep(0)
    decoder.gate.set()
    assert [r.tokens for r in await stays] == [(3, 5)] * 2
    assert decoder.seen_cancelled == [{2, 3, 4}]
    assert goes.cancelled()


async def test_a_cancelled_caller_before_hand_over_costs_nothing(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    task = asyncio.create_task(engine.decode([make_row((5,))]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert task.cancelled()
    assert decoder.batches == []


async def test_out_of_memory_halves_the_batch_and_is_remembered(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.fits = 3
    rows = [make_row((i,)) for i in range(10)]
    assert [r.tokens for r in await engine.decode(rows)] == [(3, i) for i in range(10)]
    before = len(decoder.batches)
    await engine.decode(rows)
    assert decoder.batches[before:] == [3, 3, 3, 1]
    decoder.fits = 0
    with pytest.raises(BackendError, match="single row does not fit"):
        await engine.decode(rows[:1])


async def test_closing_ends_the_thread_and_wakes_who_waits(decoder: EchoDecoder, make_row: Callable[..., Row]) -> None:
    engine = Engine(decoder, backend="local:echo")
    await engine.decode([make_row((5,))])
    decoder.gate.clear()
    decoder.started.clear()
    running = asyncio.create_task(engine.decode([make_row((5,))]))
    await until(decoder.started)
    waiting = asyncio.create_task(engine.decode([make_row((6,))]))
    await asyncio.sleep(0.005)
    closing = asyncio.create_task(engine.aclose())
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert all(isinstance(r, BackendError) and "closed" in str(r) for r in results)
    decoder.gate.set()
    await closing
    assert not [t for t in threading.enumerate() if t.name.startswith("llmprog-local")]
    with pytest.raises(BackendError, match="is closed"):
        await engine.decode([make_row((5,))])
    await engine.aclose()


def test_one_engine_serves_one_event_loop_after_another(decoder: EchoDecoder, make_row: Callable[..., Row]) -> None:
    engine = Engine(decoder, backend="local:echo")
    for i in range(3):
        assert asyncio.run(engine.decode([make_row((i,))]))[0].tokens == (3, i)
    asyncio.run(engine.aclose())


def test_an_engine_that_is_never_closed_does_not_keep_the_interpreter() -> None:
    program = """
import asyncio
from llmprog.backends.local.decoders.base import Row, Written
from llmprog.backends.local.engine import Engine
from llmprog.types import SamplingParams
class Once:
    name, score_is_bound = "once", False
    def decode(self, rows, cancelled=None):
        return [Written(tokens=(), ended=True, num_generated=0) for _ in rows]
engine = Engine(Once(), backend="local:once")
row = Row(prompt=(1,), canvas=(0,), key=0, params=SamplingParams())
asyncio.run(engine.decode([row]))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "done\n"


async def test_the_threads_option_reaches_torch(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    seen: list[int] = []

    class Observed(AutoregressiveDecoder):
        def decode(self, rows, cancelled=tuple):
            seen.append(torch.get_num_threads())
            return super().decode(rows, cancelled)

    before = torch.get_num_threads()
    engine = Engine(Observed(model, vocabulary), backend="local:x", threads=2)
    try:
        await engine.decode([make_row((5,))])
    finally:
        await engine.aclose()
        torch.set_num_threads(before)
    assert seen == [2]
