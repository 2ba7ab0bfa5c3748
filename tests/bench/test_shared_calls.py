from __future__ import annotations

import pytest

from llmprog import Blank, Budget, Prompt, Template
from llmprog.backends import ScriptedBackend
from llmprog.backends.recording import Recorder, RecordingBackend
from llmprog.backends.replay import ReplayBackend
from llmprog.bench.shared_calls import SharedCalls
from llmprog.errors import BudgetExceededError
from llmprog.runs.ledger import BudgetLedger
from llmprog.types import Completion, Request, SamplingParams, Usage


class Counting(ScriptedBackend):
    """Every completion it draws is another: its text is a running number."""

    def __init__(self):
        self.num_drawn = 0
        super().__init__(self.reply)

    def reply(self, prompt, sample):
        self.num_drawn += 1
        return Completion(text=f"{sample}: {self.num_drawn}", finish_reason="stop", usage=Usage(1, 7, 3, 0.5))


def request(text="q", num_samples=1, first_sample=0, **params):
    return Request(
        prompt=Prompt.from_text(text),
        params=SamplingParams(**{"seed": 1, **params}),
        num_samples=num_samples,
        first_sample=first_sample,
    )


async def test_a_sample_is_drawn_once_and_charged_to_each_program():
    backend = Counting()
    shared = SharedCalls(backend)
    first = await shared.view().generate(request(num_samples=3))
    second = await shared.view().generate(request(num_samples=3))
    assert first == second
    assert second[0].usage == Usage(1, 7, 3, 0.5)
    assert backend.num_drawn == 3
    assert shared.usage.calls == 3


async def test_only_missing_samples_are_drawn():
    backend = Counting()
    shared = SharedCalls(backend)
    few = await shared.view().generate(request(num_samples=2, first_sample=1))
    many = await shared.view().generate(request(num_samples=5))
    assert many[1:3] == few
    assert backend.num_drawn == 5
    assert [completion.text[0] for completion in many] == list("01234")


async def test_another_seed_prompt_or_temperature_is_another_draw():
    backend = Counting()
    view = SharedCalls(backend).view()
    for other in ({}, {"seed": 2}, {"temperature": 0.1}, {"text": "r"}):
        await view.generate(request(**other))
    assert backend.num_drawn == 4


async def test_a_program_that_asks_twice_gets_two_draws_and_so_does_the_next():
    backend = Counting()
    shared = SharedCalls(backend)
    views = shared.view(), shared.view()
    one, two = [[await view.generate(request()), await view.generate(request())] for view in views]
    assert one == two
    assert one[0] != one[1]
    assert backend.num_drawn == 2


async def test_what_a_recording_holds_is_not_drawn_again(tmp_path):
    path = tmp_path / "calls.jsonl"
    with Recorder(path) as recorder:
        view = SharedCalls(RecordingBackend(Counting(), recorder)).view()
        drawn = [await view.generate(request(num_samples=2)), await view.generate(request())]
    backend = Counting()
    shared = SharedCalls(backend, known=ReplayBackend(path))
    view = shared.view()
    assert [await view.generate(request(num_samples=2)), await view.generate(request())] == drawn
    assert backend.num_drawn == 0
    assert shared.usage == Usage()


async def test_the_budget_is_for_calls_that_are_made():
    backend = Counting()
    shared = SharedCalls(backend, spending=BudgetLedger(Budget(calls=3)))
    for _ in range(4):
        await shared.view().generate(request(num_samples=3))
    with pytest.raises(BudgetExceededError):
        await shared.view().generate(request(num_samples=4))
    assert backend.num_drawn == 3
    assert "calls" in shared.shortfall


async def test_a_failed_call_is_made_again_by_the_next(tmp_path):
    class Failing(Counting):
        def reply(self, prompt, sample):
            if self.num_drawn == 1:
                self.num_drawn += 1
                raise OSError("the wire broke")
            return super().reply(prompt, sample)

    backend = Failing()
    shared = SharedCalls(backend)
    with pytest.raises(Exception, match="the wire broke"):
        await shared.view().generate(request(num_samples=3))
    answers = await shared.view().generate(request(num_samples=3))
    assert [answer.text[0] for answer in answers] == list("012")


async def test_filled_blanks_are_shared_too():
    from llmprog.backends import open_backend

    shared = SharedCalls(open_backend("local:puzzles?decoder=masked_diffusion"))
    template = Template(prompt=Prompt.from_text("Input: 4 9 10 13\nPossible next steps:\n"), parts=(Blank(9),))
    one = await shared.view().infill(template, SamplingParams(seed=4), 2)
    two = await shared.view().infill(template, SamplingParams(seed=4), 2)
    assert one == two
    assert shared.usage.calls == 2
