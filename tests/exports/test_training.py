"""Training data: what is verified is told from what is not, and groups get the advantages of the paper."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import Program, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.errors import OptionError
from llmprog.exports.formats import export
from llmprog.exports.training import advantages_of
from llmprog.jobs.job import map as map_rows
from llmprog.runs.store import MemoryStore
from llmprog.search import BestOfN, BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Prompt

ANSWERS = {"2 + 2": ["4", "5", "four", "", "4.0", "4"], "3 * 3": ["9", "9", "9", "9", "9", "9"], "7 - 1": ["1"] * 6}


def ask(state):
    return Prompt.from_text(f"What is {state}?", system="Be brief.")


@generator(prompt=ask, name="reckon")
def reckon(state: str, completion: str) -> list[str]:
    return [completion] if completion else []  # an empty reply leads to nothing


def vote(num_samples=6):
    return Program(name="vote", generators=[reckon], controller=SelfConsistency(num_samples=num_samples))


def scripted(answers=ANSWERS):
    def reply(prompt, sample):
        question = prompt.rpartition("What is ")[2].rstrip("?")
        given = answers[question]
        return given[sample % len(given)]

    return ScriptedBackend(reply)


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def job(store):
    """A finished job over three questions, two of which have a right answer."""
    rows = [{"input": "2 + 2", "gold": "4"}, {"input": "3 * 3", "gold": 9}, {"input": "7 - 1", "gold": ""}]
    map_rows(vote(), rows, backend=scripted(), seed=1, gold="gold", store=store)
    (found,) = store.list()
    return store.open(found.id)


def lines(opened, form, **options):
    return [json.loads(piece) for piece in export(opened, form, **options)]


def replies(line):
    return line["messages"][-1]["content"]


# ------------------------------------------------------------------------------------------------ sft


def test_verified_traces_are_conversations_that_end_with_the_right_answer(job):
    found = lines(job, "sft")
    assert [(line["path"], replies(line)) for line in found] == [("0", "4"), ("0", "4.0"), ("1", "9")]
    first = found[0]
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert first["messages"][1]["content"] == "What is 2 + 2?"
    assert (first["node"], first["basis"], first["run"]) == ("reckon", "gold", job.id)


def test_a_limit_holds_for_each_input(job):
    assert [line["path"] for line in lines(job, "sft", max_per_input=1)] == ["0", "1"]


@generator(prompt="after {state}", n=3)
def grow(state: str, completion: str) -> list[str]:
    return [state + completion]


def tree(goal="rab"):
    return Program(
        name="tree",
        generators=[grow],
        controller=BreadthFirstSearch(max_depth=2, stop_on_goal=False),
        goal=None if goal is None else lambda state: state == goal,
    )


def test_of_a_search_for_a_goal_every_step_on_the_way_is_kept_and_nothing_else(store):
    result = run(tree(), "r", backend=ScriptedBackend(lambda prompt, sample: "abc"[sample]), seed=1, store=store)
    found = lines(store.open(result.run_id), "sft")
    assert [(line["messages"][0]["content"], replies(line)) for line in found] == [("after r", "a"), ("after ra", "b")]
    assert {line["basis"] for line in found} == {"goal"}


def test_a_goal_that_was_not_reached_leaves_nothing_and_is_no_error(store):
    result = run(tree("no"), "r", backend=ScriptedBackend(lambda prompt, sample: "abc"[sample]), seed=1, store=store)
    assert lines(store.open(result.run_id), "sft") == []


def test_the_start_of_the_reply_and_the_reasoning_are_part_of_a_trace(store):
    @generator(prompt=lambda state: Prompt(Prompt.from_text("go").messages, prefix="So: "))
    def say(state: str, completion: str) -> list[str]:
        return [completion]

    program = Program(generators=[say], controller=BestOfN(num_samples=1), goal=lambda state: state == "yes")
    backend = ScriptedBackend(lambda prompt, sample: Completion(text="yes", reasoning="it must be"))
    result = run(program, "r", backend=backend, seed=1, store=store)
    (line,) = lines(store.open(result.run_id), "sft")
    assert line["messages"][-1] == {"role": "assistant", "content": "So: yes", "reasoning_content": "it must be"}


@pytest.mark.parametrize(
    ("form", "missing"), [("sft", "no goal; "), ("preferences", "no goal, no checker"), ("grpo", "no goal, no checker")]
)
def test_without_anything_that_verifies_it_says_what_is_missing(store, form, missing):
    result = run(vote(), "2 + 2", backend=scripted(), seed=1, store=store)
    with pytest.raises(OptionError, match=missing) as refused:
        lines(store.open(result.run_id), form)
    assert "--gold" in str(refused.value)


# ------------------------------------------------------------------------------------------------ preferences


def test_pairs_are_of_a_right_and_a_wrong_sample_of_one_question(job):
    found = lines(job, "preferences", max_pairs=100)
    pairs = [(line["chosen"][0]["content"], line["rejected"][0]["content"]) for line in found]
    assert sorted(pairs) == sorted((right, wrong) for right in ("4", "4.0") for wrong in ("5", "four", ""))
    assert {line["path"] for line in found} == {"0"}  # row 1 has no wrong sample, row 2 no right answer
    assert found[0]["prompt"][-1]["content"] == "What is 2 + 2?"


def test_pairs_are_limited_and_use_all_samples_before_one_twice(job):
    found = lines(job, "preferences", max_pairs=3)
    assert len(found) == 3
    assert {line["rejected"][0]["content"] for line in found} == {"5", "four", ""}
    assert {line["chosen"][0]["content"] for line in found} == {"4", "4.0"}


@checker
def length(state: str) -> float:
    return len(state) / 10


def scored():
    return Program(name="scored", generators=[grow], checkers=[length], controller=BreadthFirstSearch(max_depth=1))


def test_without_verification_pairs_are_by_score_the_furthest_apart_first(store):
    texts = ["a", "bbbb", "cc"]
    result = run(scored(), "", backend=ScriptedBackend(lambda prompt, sample: texts[sample]), seed=1, store=store)
    opened = store.open(result.run_id)

    def pairs(**options):
        return [
            (line["chosen"][0]["content"], line["rejected"][0]["content"])
            for line in lines(opened, "preferences", **options)
        ]

    assert pairs() == [("bbbb", "a"), ("bbbb", "cc"), ("cc", "a")]
    assert pairs(max_pairs=1) == [("bbbb", "a")]
    assert pairs(margin=0.25) == [("bbbb", "a")]
    assert pairs(margin=5.0) == []


# ------------------------------------------------------------------------------------------------ grpo


def test_a_group_has_a_reward_and_an_advantage_for_every_sample(job):
    (group,) = lines(job, "grpo")  # the other groups are flat
    assert group["completions"] == ["4", "5", "four", "", "4.0", "4"]
    assert group["rewards"] == [1, 0, 0, 0, 1, 1]
    mean, deviation = 0.5, statistics.pstdev(group["rewards"])
    assert group["advantages"] == pytest.approx([(r - mean) / deviation for r in group["rewards"]], rel=1e-4)
    assert sum(group["advantages"]) == pytest.approx(0)


def test_groups_without_spread_are_kept_when_asked_for(job):
    found = lines(job, "grpo", keep_flat=True)
    assert [group["rewards"] for group in found] == [[1, 0, 0, 0, 1, 1], [1] * 6]
    assert found[1]["advantages"] == [0] * 6


def test_rewards_are_scores_where_nothing_is_verified(store):
    texts = ["a", "bbbb", "cc"]
    result = run(scored(), "", backend=ScriptedBackend(lambda prompt, sample: texts[sample]), seed=1, store=store)
    (group,) = lines(store.open(result.run_id), "grpo")
    assert group["rewards"] == pytest.approx([0.1, 0.4, 0.2])
    assert group["basis"] == "score"


def test_samples_that_the_search_never_looked_at_count_for_nothing(store):
    """Ended at the goal, it had sample 2 of its call in hand only as far as it was parsed with the goal."""
    program = Program(
        generators=[grow.with_options(n=1)],
        controller=BestOfN(num_samples=8),
        goal=lambda state: state == "rgoal",
    )
    texts = ["x", "", "goal", "", "y", "z", "", ""]
    backend = ScriptedBackend(lambda prompt, sample: texts[sample], n=False)
    result = run(program, "r", backend=backend, seed=1, store=store)
    groups = lines(store.open(result.run_id), "grpo")
    assert sum(len(group["samples"]) for group in groups) <= 3
    assert all(max(group["samples"]) <= 2 for group in groups)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_advantages_are_centred_and_of_unit_spread(rewards):
    found = advantages_of(rewards)
    assert sum(found) == pytest.approx(0, abs=1e-3 * len(rewards))
    if statistics.pstdev(rewards) > 1:
        assert statistics.pstdev(found) == pytest.approx(1, rel=1e-3)
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert [found[i] for i in order] == sorted(found)


def test_a_resumed_job_exports_the_same_as_an_undisturbed_one(store, job):
    again = MemoryStore()
    rows = [{"input": "2 + 2", "gold": "4"}, {"input": "3 * 3", "gold": 9}, {"input": "7 - 1", "gold": ""}]
    map_rows(vote(), rows, backend=scripted(), seed=1, gold="gold", store=again, budget="calls=9")
    (stopped,) = again.list()
    map_rows(vote(), rows, backend=scripted(), gold="gold", store=again, resume=stopped.id)
    for form in ("sft", "preferences", "grpo"):
        resumed = lines(again.open(stopped.id), form)
        assert [line | {"run": None} for line in resumed] == [line | {"run": None} for line in lines(job, form)]


def test_options_of_another_form_and_bad_values_are_refused(job):
    for form, options, complaint in (
        ("sft", {"margin": 1.0}, "unknown option of the export 'sft': 'margin'; known: max_per_input"),
        ("sft", {"max_per_input": 0}, "max_per_input=0; allowed is a whole number >= 1"),
        ("preferences", {"margin": float("nan")}, "margin=nan"),
        ("parquet", {}, "unknown form of export 'parquet'; known: csv, grpo"),
    ):
        with pytest.raises(OptionError, match=complaint):
            lines(job, form, **options)


def test_programs_within_a_program_are_verified_by_their_own_goals_or_by_the_right_answer(store):
    last = Program(name="last", generators=[reckon], controller=SelfConsistency(num_samples=3))
    program = Sequence(tree("rab"), last)

    def reply(prompt, sample):
        return ["rab and 1", "24", "24"][sample] if "What is" in prompt else "abc"[sample % 3]

    map_rows(program, [{"input": "r", "gold": "24"}], backend=ScriptedBackend(reply), seed=1, gold="gold", store=store)
    (found,) = store.list()
    traces = lines(store.open(found.id), "sft")
    assert [(line["path"], replies(line), line["basis"]) for line in traces] == [
        ("0/last", "24", "gold"), ("0/tree", "a", "goal"), ("0/tree", "b", "goal"),
    ]  # fmt: skip
    (group,) = [group for group in lines(store.open(found.id), "grpo") if group["basis"] == "gold"]
    assert group["rewards"] == [0, 1, 1]
