from __future__ import annotations

import asyncio

import pytest

from llmprog import Blank, Choices, Completion, Prompt, Template, Usage
from llmprog.backends import Capabilities, Scheduler, ScriptedBackend
from llmprog.errors import BackendError, CapabilityError, OptionError
from llmprog.types import Delta, Logprobs, Request, SamplingParams

PROMPT = Prompt.from_text("q")


def asking(num_samples=1, first_sample=0):
    return Request(prompt=PROMPT, num_samples=num_samples, first_sample=first_sample)


@pytest.mark.parametrize("n", [True, False])
async def test_samples_come_in_order_however_they_are_drawn(n):
    settled = []
    backend = ScriptedBackend(lambda text, sample: str(sample), n=n, shuffle=3)
    scheduler = Scheduler(backend, on_settled=settled.append)
    completions = await scheduler.generate("node", asking(6, first_sample=4))
    assert [c.text for c in completions] == ["4", "5", "6", "7", "8", "9"]
    assert len(backend.requests) == len(settled) == (1 if n else 6)
    assert scheduler.usage == Usage(6, 0, 6, 0.0)
    assert all(event.node == "node" and event.duration_s >= 0 for event in settled)


class Stingy(ScriptedBackend):
    """Gives at most ``limit`` samples per call."""

    def __init__(self, limit, **options):
        super().__init__(lambda text, sample: str(sample), **options)
        self.limit = limit

    async def generate(self, request):
        return (await super().generate(request))[: self.limit]


async def test_missing_samples_are_asked_for_again():
    backend = Stingy(2)
    completions = await Scheduler(backend).generate("node", asking(5))
    assert [c.text for c in completions] == ["0", "1", "2", "3", "4"]
    assert [(r.first_sample, r.num_samples) for r in backend.requests] == [(0, 5), (2, 3), (4, 1)]


@pytest.mark.parametrize("n", [True, False])
async def test_a_backend_that_never_gives_them_is_an_error(n):
    with pytest.raises(BackendError, match=r"returned 0 of [15] samples; ask for fewer at once"):
        await Scheduler(Stingy(0, n=n)).generate("node", asking(5))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (None, "returned None; allowed is a list of Completion"),
        (["4"], "returned '4' among its answers; allowed is a list of Completion"),
        ((c for c in [Completion(text="4")]), "returned <generator"),
        ([Completion(text=b"4")], "returned a Completion with text=b'4'; allowed is a text of type str"),
    ],
)
async def test_an_answer_that_is_none_is_the_backends_error(answer, complaint):
    class Odd(ScriptedBackend):
        async def generate(self, request):
            return answer

    with pytest.raises(BackendError, match=complaint) as caught:
        await Scheduler(Odd({})).generate("node", asking())
    assert caught.value.possibly_billed


async def test_likelihoods_that_are_none_are_the_backends_error():
    class Odd(ScriptedBackend):
        async def score(self, prompt, continuations):
            return [-0.5]

    with pytest.raises(BackendError, match=r"returned -0\.5 among its answers; allowed is a list of Logprobs"):
        await Scheduler(Odd({})).score("node", PROMPT, ["x"])


async def test_the_limit_on_calls_in_flight_holds():
    class Counting(ScriptedBackend):
        highest = 0

        async def generate(self, request):
            self.highest = max(self.highest, self.num_in_flight + 1)
            return await super().generate(request)

    backend = Counting(lambda text, sample: "", shuffle=1)
    scheduler = Scheduler(backend, max_concurrency=3)
    await asyncio.gather(*(scheduler.generate("node", asking(first_sample=i)) for i in range(20)))
    assert backend.highest == 3
    with pytest.raises(OptionError, match="max_concurrency=0"):
        Scheduler(backend, max_concurrency=0)


async def test_each_node_has_its_backend():
    one, other = ScriptedBackend(lambda *_: "one"), ScriptedBackend(lambda *_: "other")
    scheduler = Scheduler(one, {"b": other})
    assert (await scheduler.generate("a", asking()))[0].text == "one"
    assert (await scheduler.generate("b", asking()))[0].text == "other"
    with pytest.raises(OptionError, match="node 'a' calls a model, but no backend was given"):
        await Scheduler(None, {"b": other}).generate("a", asking())


async def test_what_a_backend_raises_is_a_backend_error():
    with pytest.raises(BackendError, match="backend 'scripted': it raised ZeroDivisionError") as caught:
        await Scheduler(ScriptedBackend(lambda *_: 1 / 0)).generate("node", asking())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("n", [True, False])
async def test_a_failed_sample_cancels_its_siblings(n):
    class Failing(ScriptedBackend):
        async def generate(self, request):
            if request.first_sample == 2:
                raise BackendError("no", backend=self.id)
            self.num_in_flight += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.num_in_flight -= 1

    backend = Failing({}, n=False)
    with pytest.raises(BackendError):
        await Scheduler(backend).generate("node", asking(4))
    assert backend.num_in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Filling(ScriptedBackend):
    capabilities = Capabilities(infill=True, score=True, n=True)

    def __init__(self):
        super().__init__({})
        self.capabilities = Capabilities(infill=True, score=True, n=True)
        self.seeds = []

    async def infill(self, template, params, num_samples=1):
        self.seeds.append(params.seed)
        return [Completion(text="filled", usage=Usage(1))] * num_samples

    async def score(self, prompt, continuations):
        return [Logprobs(tokens=("t",), logprobs=(-1.0,)) for _ in continuations]


async def test_a_template_is_filled_in_and_later_samples_have_other_seeds():
    backend = Filling()
    template = Template(PROMPT, ("a", Blank(2)))
    for first in (0, 1, 2):
        request = Request(prompt=template, params=SamplingParams(seed=7), num_samples=2, first_sample=first)
        assert [c.text for c in await Scheduler(backend).generate("node", request)] == ["filled", "filled"]
    assert backend.seeds[0] == 7
    assert len(set(backend.seeds)) == 3
    with pytest.raises(CapabilityError, match="diffusion decoder"):
        await Scheduler(ScriptedBackend({})).generate("node", Request(prompt=template))


async def test_scoring_is_counted():
    scheduler = Scheduler(Filling())
    assert [s.total for s in await scheduler.score("node", PROMPT, ["a", "b"])] == [-1.0, -1.0]
    assert scheduler.usage.calls == 1
    assert scheduler.usage.completion_tokens == 2


class Typing(ScriptedBackend):
    """Writes letter by letter."""

    def __init__(self):
        super().__init__(lambda text, sample: f"abc{sample}")
        self.capabilities = Capabilities(n=True, seed=True, stream="append")

    async def stream(self, request, on_delta):
        completions = await self.generate(request)
        for sample, completion in enumerate(completions):
            for letter in completion.text:
                on_delta(Delta(sample=sample, text=letter))
        return completions


async def test_pieces_are_told_where_somebody_listens_and_the_backend_streams():
    told = []
    request = asking(2, first_sample=1)
    assert [c.text for c in await Scheduler(Typing(), on_delta=told.append).generate("node", request)] == [
        "abc1",
        "abc2",
    ]
    assert "".join(event.delta.text for event in told if event.delta.sample == 1) == "abc2"
    assert all(event.node == "node" and event.request is request for event in told)
    told.clear()
    await Scheduler(ScriptedBackend({"q": "x"}), on_delta=told.append).generate("node", asking())
    assert told == []


async def test_what_a_backend_cannot_give_is_refused_before_it_is_called():
    backend = ScriptedBackend({"q": "x"})
    for params in (SamplingParams(logprobs=True), SamplingParams(guided=Choices(("a", "b")))):
        with pytest.raises(CapabilityError):
            await Scheduler(backend).generate("node", Request(prompt=PROMPT, params=params))
    assert backend.requests == []
