from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from llmprog.backends.local import engine as engine_module
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Continuation, Row, Seen, Vocabulary, Written
from llmprog.backends.local.engine import Engine
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.errors import BackendError, InputError


class Tensors:
    """Stands for what a computation holds while it runs."""


class EchoDecoder:
    """Writes each row's prompt; records its steps; can be told to wait, to fail and to run out of memory."""

    name = "echo"
    score_is_bound = False
    keeps_tokens = True
    takes_joiners = True

    def __init__(self) -> None:
        self.batches: list[int] = []  # rows of each step
        self.scored: list[int] = []
        self.steps: dict[int, int] = {}  # by the last token of a prompt, how many steps its row takes; else one
        self.most = 10**9  # rows for which there is room
        self.fits = 10**9  # rows for which there is memory
        self.poison: dict[int, Exception] = {}
        self.refused: dict[int, Exception] = {}  # by the last token of a prompt, what asking for room raises
        self.scores_fit = 10**9
        self.attempts: list[weakref.ref[Tensors]] = []  # what failed attempts to score held
        self.start_error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.dropped: list[int] = []
        self.writings: weakref.WeakSet[EchoWriting] = weakref.WeakSet()
        self.most_writings = 0
        self.threads: set[str] = set()

    def start(self) -> EchoWriting:
        if self.start_error is not None:
            raise self.start_error
        return EchoWriting(self)

    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        assert not any(attempt() for attempt in self.attempts), "a failed attempt still holds its memory"
        self.scored.append(len(continuations))
        held = Tensors()
        if len(continuations) > self.scores_fit:
            self.attempts.append(weakref.ref(held))
            raise torch.OutOfMemoryError("no room")
        return [tuple(-float(t) for t in c.tokens) for c in continuations]


class EchoWriting:
    def __init__(self, decoder: EchoDecoder) -> None:
        self.decoder = decoder
        self.rows: dict[int, Row] = {}
        self.ages: dict[int, int] = {}

    def room(self, rows: Sequence[Row]) -> int:
        if rows[0].prompt[-1] in self.decoder.refused:
            raise self.decoder.refused[rows[0].prompt[-1]]
        return min(len(rows), self.decoder.most - len(self.rows))

    def admit(self, rows: Mapping[int, Row]) -> None:
        self.decoder.writings.add(self)
        self.rows |= rows
        if sum(len(writing.rows) for writing in self.decoder.writings) > self.decoder.fits:
            raise torch.OutOfMemoryError("no room")

    def step(self) -> Mapping[int, Written]:
        decoder = self.decoder
        decoder.threads.add(threading.current_thread().name)
        decoder.batches.append(len(self.rows))
        decoder.most_writings = max(decoder.most_writings, sum(bool(writing.rows) for writing in decoder.writings))
        decoder.started.set()
        assert decoder.gate.wait(60)
        found = {}
        for ticket, row in list(self.rows.items()):
            last = row.prompt[-1]
            if last in decoder.poison:
                self.rows.clear()
                raise decoder.poison[last]
            self.ages[ticket] = self.ages.get(ticket, 0) + 1
            if self.ages[ticket] == decoder.steps.get(last, 1):
                found[ticket] = Written(tokens=row.prompt, ended=True, num_generated=1)
                del self.rows[ticket]
        return found

    def drop(self, tickets: Collection[int]) -> None:
        self.decoder.dropped.append(len(tickets))
        for ticket in tickets:
            del self.rows[ticket]

    def seen(self, ticket: int) -> Seen | None:
        return Seen(self.text(ticket), (None,)) if self.rows[ticket].is_watched else None

    def text(self, ticket: int) -> tuple[int, ...]:
        return self.rows[ticket].prompt[: self.ages[ticket]]

    def __len__(self) -> int:
        return len(self.rows)


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
    assert await asyncio.to_thread(event.wait, 60)


async def handed_over() -> None:
    """What was asked for has gone to the engine's thread, which takes some time and some turns of the loop."""
    await asyncio.sleep(0.01)
    for _ in range(2 * engine_module.GATHER_TURNS):
        await asyncio.sleep(0)


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


async def test_large_calls_are_split_and_what_waits_joins_as_soon_as_there_is_room(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.gate.clear()
    first = asyncio.create_task(engine.decode([make_row((5, i)) for i in range(130)]))
    await until(decoder.started)
    others = [asyncio.create_task(engine.decode([make_row((6,))])) for _ in range(3)]
    await handed_over()
    decoder.gate.set()
    assert [r.tokens for r in await first] == [(3, 5, i) for i in range(130)]
    await asyncio.gather(*others)
    assert decoder.batches == [100, 33]


@pytest.mark.parametrize("takes_joiners", [True, False])
async def test_what_comes_later_is_written_between_the_steps_of_what_is_under_way(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row], takes_joiners: bool
) -> None:
    decoder.takes_joiners = takes_joiners
    decoder.steps = {7: 5, 8: 2}
    decoder.gate.clear()
    long = asyncio.create_task(engine.decode([make_row((7,))] * 3))
    await until(decoder.started)
    short = asyncio.create_task(engine.decode([make_row((8,))]))
    await handed_over()
    decoder.gate.set()
    done, _ = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
    assert short in done
    await long
    assert decoder.batches == ([3, 4, 4, 3, 3] if takes_joiners else [3, 3, 1, 3, 1, 3, 3])
    assert (engine.counts.rows, engine.counts.row_steps) == (4, 3 * 5 + 2)


async def test_what_cannot_join_is_gathered_behind_what_is_under_way(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MOST_BESIDE", 1)
    decoder.takes_joiners = False
    decoder.steps = {7: 4}
    decoder.gate.clear()
    calls = [asyncio.create_task(engine.decode([make_row((7,))]))]
    await until(decoder.started)
    for _ in range(2):
        calls.append(asyncio.create_task(engine.decode([make_row((8,))])))
        await handed_over()
    decoder.gate.set()
    await asyncio.gather(*calls)
    assert decoder.batches == [1, 1, 1, 1, 2]


async def test_rows_for_which_there_is_no_room_wait_for_others_to_leave(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.most = 4
    decoder.steps = {5: 3}
    results = await asyncio.gather(*(engine.decode([make_row((4 + i % 2,))]) for i in range(12)))
    assert [result[0].tokens for result in results] == [(3, 4 + i % 2) for i in range(12)]
    assert max(decoder.batches) == 4
    assert engine.counts.restarts == 0


async def test_a_caller_watches_its_rows(engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]) -> None:
    decoder.steps = {7: 3}
    told: list[tuple[int, tuple[int, ...], Seen | None]] = []
    rows = [make_row((4, 5, 7)), make_row((6,)), replace(make_row((8, 9, 7)), is_watched=True)]
    await engine.decode(rows, lambda *news: told.append(news))
    assert [news[:2] for news in told] == [(0, (3,)), (2, (3,)), (0, (3, 4)), (2, (3, 8))]
    assert [news[2] is None for news in told] == [True, False] * 2


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
    await handed_over()
    waiting.cancel()
    await handed_over()
    decoder.gate.set()
    await asyncio.gather(first, other)
    assert decoder.batches == [1, 2]
    assert waiting.cancelled()


async def test_a_cancelled_caller_is_dropped_from_the_running_batch(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.gate.clear()
    decoder.steps = {5: 2, 6: 2}
    stays = asyncio.create_task(engine.decode([make_row((5,))] * 2))
    goes = asyncio.create_task(engine.decode([make_row((6,))] * 3))
    await until(decoder.started)
    goes.cancel()
    await asyncio.sleep(0)
    decoder.gate.set()
    assert [r.tokens for r in await stays] == [(3, 5)] * 2
    assert decoder.dropped == [3]
    assert decoder.batches == [5, 2]
    assert goes.cancelled()


async def test_a_cancelled_caller_before_hand_over_costs_nothing(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    task = asyncio.create_task(engine.decode([make_row((5,))]))
    await asyncio.sleep(0)
    task.cancel()
    await handed_over()
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
    assert engine.counts.restarts == 10 + 5
    decoder.fits = 0
    with pytest.raises(BackendError, match="single row does not fit"):
        await engine.decode(rows[:1])


async def test_scores_that_do_not_fit_are_tried_again_in_halves_once_the_memory_is_free(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.scores_fit = 3
    asked = [Continuation((3,), (i,)) for i in range(12)]
    assert await engine.score(asked) == [(-float(i),) for i in range(12)]
    assert decoder.scored == [12, 6, 3, 3, 6, 3, 3]
    await engine.decode([make_row((i,)) for i in range(20)])
    assert decoder.batches == [20], "what is written is not bound by what could be scored"
    decoder.scores_fit = 0
    with pytest.raises(BackendError, match="single row does not fit"):
        await engine.score(asked[:1])


async def test_many_scores_are_made_between_the_steps_of_rows(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.steps = {7: 3}
    rows = engine.decode([make_row((7,))])
    scores = engine.score([Continuation((3,), (i % 9,)) for i in range(100)])
    await asyncio.gather(rows, scores)
    assert decoder.scored == [32, 32, 32, 4]
    assert decoder.batches == [1, 1, 1]


async def test_a_row_waits_for_memory_that_others_hold(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.takes_joiners = False
    decoder.steps = {7: 4}
    decoder.fits = 10
    decoder.gate.clear()
    many = asyncio.create_task(engine.decode([make_row((7,))] * 10))
    await until(decoder.started)
    one = asyncio.create_task(engine.decode([make_row((8,))]))
    await handed_over()
    decoder.gate.set()
    results = await asyncio.gather(many, one)
    assert [len(result) for result in results] == [10, 1]
    assert decoder.batches == [10, 10, 10, 10, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ValueError("boom")])
async def test_what_cannot_even_begin_fails_its_caller_and_nobody_else(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row], error: Exception
) -> None:
    decoder.start_error = error
    with pytest.raises(BackendError, match=r"single row does not fit|boom"):
        await engine.decode([make_row((5,))])
    decoder.start_error = None
    assert (await engine.decode([make_row((5,))]))[0].tokens == (3, 5)


async def test_a_row_for_which_there_can_be_no_room_fails_at_once(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.steps = {7: 4}
    decoder.refused = {8: InputError("too long")}
    decoder.gate.clear()
    running = asyncio.create_task(engine.decode([make_row((7,))]))
    await until(decoder.started)
    refused = asyncio.create_task(engine.decode([make_row((8,))]))
    await handed_over()
    decoder.gate.set()
    with pytest.raises(InputError, match="too long"):
        await refused
    await running
    assert decoder.batches == [1, 1, 1, 1]


async def test_callers_who_are_written_alone_are_few_at_a_time(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row]
) -> None:
    decoder.poison = {8: ValueError("boom")}
    decoder.steps = dict.fromkeys(range(10, 20), 3)
    calls = [engine.decode([make_row((i,))]) for i in (8, *range(10, 20))]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], BackendError)
    assert all(isinstance(result, list) for result in results[1:])
    assert decoder.most_writings == 2


async def test_an_error_of_the_engine_itself_is_told_and_survived(
    engine: Engine, decoder: EchoDecoder, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        monkeypatch.undo()
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(engine, "_admit", broken)
    with pytest.raises(BackendError, match="a fault of ours"):
        await engine.decode([make_row((5,))])
    assert await engine.decode([make_row((5,))])


def local_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("llmprog-local")}


async def test_closing_ends_the_thread_and_wakes_who_waits(decoder: EchoDecoder, make_row: Callable[..., Row]) -> None:
    before = local_threads()
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
    assert local_threads() == before
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
    name, takes_joiners = "once", True
    def start(self):
        return Writing()
class Writing:
    def room(self, rows):
        return len(rows)
    def admit(self, rows):
        self.tickets = list(rows)
    def step(self):
        return {ticket: Written(tokens=(), ended=True, num_generated=0) for ticket in self.tickets}
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
        def start(self):
            seen.append(torch.get_num_threads())
            return super().start()

    before = torch.get_num_threads()
    engine = Engine(Observed(model, vocabulary), backend="local:x", threads=2)
    try:
        await engine.decode([make_row((5,))])
    finally:
        await engine.aclose()
        torch.set_num_threads(before)
    assert seen == [2]
