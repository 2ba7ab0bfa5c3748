"""Whatever is joined with whatever: the same seed comes to the same, budgets hold, nothing is left or paid twice."""

from __future__ import annotations

import asyncio
import zlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joining import asking, stepping

from llmprog import arun, run
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.errors import BackendError
from llmprog.runs.store import MemoryStore
from llmprog.search import WindowStop


def reply(text, sample):
    """A short text that depends on the question alone; of some questions nothing, so that parts are not solved."""
    number = zlib.crc32(f"{text}#{sample}".encode())
    return "" if number % 9 == 0 else "abcde"[number % 5] * (1 + number % 3)


LEAVES = [
    asking("ask"), asking("say"), asking("never", goal=lambda state: False), stepping("grow", max_depth=2),
    Apply(lambda text: text[:3], name="cut"), Apply(lambda text: None if text == "a" else text, name="pick"),
]  # fmt: skip


HALVES = Apply(lambda text: [text[: len(text) // 2], text[len(text) // 2 :]])


@st.composite
def programs(draw, depth=3):
    """Programs that make texts of texts, of every combinator, in each other."""
    kind = draw(st.integers(0, 8)) if depth else 0

    def part():
        return draw(programs(depth - 1))

    if kind == 1:
        return Sequence(*(part() for _ in range(draw(st.integers(1, 3)))))
    if kind == 2:
        return Loop(part(), until=lambda text: len(text) > 2, max_rounds=draw(st.integers(1, 3)))
    if kind == 3:
        return Vote(part(), num_samples=draw(st.integers(1, 4)), stopping=draw(st.sampled_from([None, WindowStop(2)])))
    if kind == 4:
        return Branch(lambda text: len(text) % 2, {0: part()}, otherwise=part())
    if kind == 5:
        return Sequence(Parallel({"a": part(), "b": part()}), Apply(lambda got: got["a"] + got["b"]))
    if kind == 6:
        limit, policy = draw(st.sampled_from([None, 1])), draw(st.sampled_from(["error", "skip", None]))
        mapped = Map(part(), concurrency=limit, on_unsolved=policy)
        return Sequence(HALVES, mapped, Apply(lambda items: "".join(filter(None, items))))
    if kind == 7:
        pairs = Sequence(Apply("".join), part())
        return Sequence(Apply(lambda text: list(text + "xy")), Reduce(pairs, associative=draw(st.booleans())))
    return draw(st.integers(0, len(LEAVES) - 1).map(LEAVES.__getitem__))


many = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def outline(result):
    """What must not depend on timing; how much was spent on items that do not count does."""
    parts = {label: outline(part) for label, part in result.parts.items()}
    return result.answer, result.solved, result.stopped, result.explanation, result.votes, result.graph.to_json(), parts


@many
@given(programs(), st.integers(0, 2**31), st.integers(0, 2**31))
def test_the_same_seed_comes_to_the_same(program, seed, shuffle):
    first = run(program, "abcd", backend=ScriptedBackend(reply), seed=seed)
    for options in ({"shuffle": shuffle}, {"shuffle": shuffle + 1, "n": False}):
        assert outline(run(program, "abcd", backend=ScriptedBackend(reply, **options), seed=seed)) == outline(first)


@many
@given(programs(), st.integers(0, 2**31), st.integers(1, 12))
def test_budgets_hold(program, seed, calls):
    backend = ScriptedBackend(reply, shuffle=seed)
    result = run(program, "abcd", backend=backend, seed=seed, budget=f"calls={calls}")
    asked = sum(request.num_samples for request in backend.requests)
    assert result.usage.calls == asked <= calls
    if result.stopped != "budget":
        free = run(program, "abcd", backend=ScriptedBackend(reply), seed=seed)
        assert outline(result) == outline(free)


@many
@given(programs(), st.integers(0, 2**31), st.integers(1, 60))
def test_cancelling_leaves_nothing_behind(program, seed, num_turns):
    async def cut_short():
        backend = ScriptedBackend(reply, shuffle=seed)
        task = asyncio.ensure_future(arun(program, "abcd", backend=backend, seed=seed, budget="calls=1000"))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
        assert backend.num_in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cut_short())


class Failing(ScriptedBackend):
    def __init__(self, good_calls, **options):
        super().__init__(reply, **options)
        self.good_calls = good_calls

    async def generate(self, request):
        if len(self.requests) >= self.good_calls:
            raise BackendError("it is down", backend=self.id)
        return await super().generate(request)


@many
@given(programs(), st.integers(0, 2**31), st.integers(0, 12))
def test_what_had_settled_is_not_asked_for_again(program, seed, good_calls):
    store = MemoryStore()
    free = run(program, "abcd", backend=ScriptedBackend(reply), seed=seed)
    failing = Failing(good_calls)
    try:
        result = run(program, "abcd", backend=failing, seed=seed, store=store)
    except BackendError:
        (kept,) = store.list()
        settled = kept.usage.calls
        backend = ScriptedBackend(reply)
        result = run(program, "abcd", backend=backend, store=store, resume=kept.id)
        assert sum(r.num_samples for r in (*failing.requests, *backend.requests)) == store.open(kept.id).usage.calls
        assert settled == sum(request.num_samples for request in failing.requests)
    assert outline(result) == outline(free)
