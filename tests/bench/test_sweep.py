from __future__ import annotations

from dataclasses import replace

import pytest

from llmprog import map as map_rows
from llmprog.backends import ScriptedBackend, open_backend
from llmprog.bench.measures import Samples
from llmprog.bench.report import tables, to_json
from llmprog.bench.shared_calls import SharedCalls
from llmprog.bench.sweep import Sweep, Variant
from llmprog.errors import OptionError
from llmprog.programs import arithmetic
from llmprog.programs.self_consistency import self_consistency

QUESTIONS = [
    {"question": "(2 + 5) * 5 * 4", "right": "140"},
    {"question": "56 - (38 + 4 - 20 + 18)", "right": "16"},
    {"question": "(17 + 25) * 3 - 40", "right": "86"},
    {"question": "(54 / 2 - 2 - 10) * 6", "right": "90"},
]


def variants(*sizes, series="arithmetic"):
    return [Variant(series=series, setting=f"num_samples={n}", program=arithmetic(num_samples=n)) for n in sizes]


@pytest.fixture(scope="module")
def swept():
    """A sweep of the embedded model over four questions."""
    from llmprog.background_loop import run_sync

    shared = SharedCalls(open_backend("local:puzzles?decoder=autoregressive"))
    return run_sync(Sweep(variants(1, 2, 6), QUESTIONS, shared, gold="right", seed=3).run())


def test_each_point_is_what_its_program_comes_to_alone(swept):
    for point, size in zip(swept.points, (1, 2, 6), strict=True):
        alone = map_rows(
            arithmetic(num_samples=size),
            QUESTIONS,
            backend="local:puzzles?decoder=autoregressive",
            gold="right",
            seed=3,
        )
        assert point.values == tuple(float(row.correct) for row in alone)
        paid = sum((row.usage for row in alone), type(point.usage)())
        # What the model still knew of a prompt depends on what it had read before.
        assert replace(point.usage, cached_tokens=0) == replace(paid, cached_tokens=0)


def test_calls_are_made_once_and_counted_for_each(swept):
    assert [point.mean_usage("calls") for point in swept.points] == [1, 2, 6]
    assert swept.shared.usage.calls == 4 * 6
    assert swept.points[2].mean_usage("tokens") > 5 * swept.points[0].mean_usage("tokens")


def test_pass_and_majority_at_k_are_of_the_samples_that_voted(swept):
    at_k = swept.points[-1].at_k()
    assert [k for k, _, _ in at_k] == [1, 2, 4, 6]
    passed = [estimate.value for _, estimate, _ in at_k]
    assert passed == sorted(passed)
    # At k = 1 both are the share of samples that are right; with all samples majority@k is the vote.
    assert at_k[0][1].value == pytest.approx(at_k[0][2].value)
    shares = [samples.num_correct / samples.total for samples in swept.points[-1].samples]
    assert at_k[0][1].value == pytest.approx(sum(shares) / 4)
    assert at_k[-1][1].value == sum(samples.num_correct > 0 for samples in swept.points[-1].samples) / 4


def test_tables_and_json_say_the_same(swept):
    text, values = tables(swept), to_json(swept)
    assert "made 24 calls; one by one the settings above would have made 36" in text
    for point in values["points"]:
        line = next(line for line in text.splitlines() if line.startswith(f"arithmetic {point['setting']} "))
        assert f"{100 * point['accuracy']['value']:.1f} %" in line


async def test_series_are_compared_on_the_same_questions():
    def reply(prompt, sample):
        if "step by step" in prompt and "2 + 2" in prompt:
            return "Answer: 4"
        return f"Answer: {sample}"

    rows = [{"question": "Two: 2 + 2?", "right": 4}, {"question": "Which is it?", "right": 0}]
    both = [
        Variant(series=f"n={n}", setting="", program=self_consistency(num_samples=n, answer="number")) for n in (1, 4)
    ]
    report = await Sweep(both, rows, SharedCalls(ScriptedBackend(reply)), gold="right").run()
    assert [point.values for point in report.points] == [(1.0, 1.0), (1.0, 1.0)]
    assert report.points[1].samples == (Samples(num_correct=4), Samples(num_correct=1, others=(1, 1, 1)))
    ((name, baseline, gap),) = report.differences()
    assert (name, baseline, gap.value) == ("n=4", "n=1", 0.0)


async def test_repeats_are_samples():
    rows = [{"question": "Which?", "right": 1}]
    one = Variant(series="", setting="", program=self_consistency(num_samples=1, answer="number"))
    replies = iter(["Answer: 1", "Answer: 2", "no idea", "Answer: 1"])
    backend = ScriptedBackend(lambda prompt, sample: next(replies))
    report = await Sweep([one], rows, SharedCalls(backend), gold="right", num_repeats=4, concurrency=1).run()
    (point,) = report.points
    assert point.values == (0.5,)
    assert point.samples == (Samples(num_correct=2, others=(1,), num_invalid=1),)
    assert point.num_runs == 4
    assert point.mean_usage("calls") == 1


async def test_a_run_that_fails_counts_as_wrong_and_is_told():
    def reply(prompt, sample):
        if "bad" in prompt:
            raise OSError("the wire broke")
        return "Answer: 1"

    rows = [{"question": "good", "right": 1}, {"question": "bad", "right": 1}]
    one = Variant(series="sc", setting="", program=self_consistency(num_samples=2, answer="number"))
    report = await Sweep([one], rows, SharedCalls(ScriptedBackend(reply)), gold="right").run()
    assert report.points[0].values == (1.0, 0.0)
    assert report.points[0].samples is None
    assert "sc: 1 of 2 runs failed, the first with BackendError: " in tables(report)


def test_there_must_be_something_to_measure():
    shared = SharedCalls(ScriptedBackend({}))
    with pytest.raises(OptionError, match="0 variants and 4 questions"):
        Sweep([], QUESTIONS, shared)
    with pytest.raises(OptionError, match="num_repeats=0"):
        Sweep(variants(1), QUESTIONS, shared, num_repeats=0)
