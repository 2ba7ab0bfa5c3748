"""GraphOfThoughts: every operation on worked examples, what runs side by side, what is decided on the way."""

from __future__ import annotations

import asyncio

import pytest
from merge_sorting import (
    LEVEL,
    REPLIES,
    Part,
    digits,
    few_errors,
    join,
    join_by_model,
    merge_sort,
    merge_tree,
    one_by_one,
    sorting,
    split,
)
from worlds import run_search

from llmprog import Program, arun, checker
from llmprog.backends import ScriptedBackend
from llmprog.errors import DeclarationError, NodeError
from llmprog.search import (
    Aggregate,
    Decide,
    Generate,
    GraphOfThoughts,
    GroundTruth,
    KeepBest,
    KeepValid,
    OperationGraph,
    Refine,
    Score,
    Select,
    Status,
)


def test_merge_sort_keeps_the_best_of_each_half_and_of_the_merges():
    result = sorting(merge_sort()).run("4 2 3 1", backend=ScriptedBackend(REPLIES))
    assert result.answer.numbers == (1, 2, 3, 4)
    assert result.stopped == "done"
    assert result.thought.score == 0.0
    assert [parent.state.numbers for parent in result.thought.parents] == [(2, 4), (1, 3)]
    dropped = {str(t.state): result.graph.prune_reason(t.id) for t in result.graph if t.status == Status.PRUNED}
    assert dropped == {
        **dict.fromkeys(["4 2", "2 2"], "not kept by best 0"),
        **dict.fromkeys(["1", "1 2"], "not kept by best 1"),
        **dict.fromkeys(["1 2 4 3", "2 1 4 3"], "not kept by best"),
    }
    assert {t.state.numbers: t.score for t in result.graph if t.depth == 2} == {
        (2, 4): 0.0, (2, 2): -2.0, (1,): -1.0, (1, 2): -2.0, (1, 3): 0.0,
    }  # fmt: skip


async def test_branches_run_side_by_side():
    gate, asked = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedBackend):
        async def generate(self, request):
            if request.prompt.text == "sort 4 2":
                await gate.wait()
            if request.prompt.text == "sort 3 1":
                asked.set()
            return await super().generate(request)

    run = asyncio.ensure_future(arun(sorting(merge_sort()), "4 2 3 1", backend=Slow(REPLIES)))
    await asyncio.wait_for(asked.wait(), 60)
    assert not run.done()
    gate.set()
    assert (await run).answer.numbers == (1, 2, 3, 4)


def run(operations, replies, given="3 1 2", **options):
    backend = ScriptedBackend(replies)
    result = sorting(operations, **options).run(given, backend=backend)
    return result, [request.prompt.text for request in backend.requests]


def test_refining_stops_at_the_first_good_enough_improvement():
    operations = {"sort": Generate(generator="sort"), "refine": Refine(generator="correct", threshold=0.0)}
    replies = {"sort 3 1 2": "3 2 1", "correct 3 2 1": "2 1 3", "correct 2 1 3": "1 2 3"}
    result, asked = run(operations, replies)
    assert result.answer.numbers == (1, 2, 3)
    assert asked == ["sort 3 1 2", "correct 3 2 1", "correct 2 1 3"]
    assert [t.state.numbers for t in result.graph.path(result.thought.id)] == [
        (3, 1, 2),
        (3, 2, 1),
        (2, 1, 3),
        (1, 2, 3),
    ]


def test_refining_ends_after_its_tries_with_the_best():
    operations = {"sort": Generate(generator="sort"), "refine": Refine(generator="correct", threshold=0.0)}
    replies = {"sort 3 1 2": "3 2 1", "correct 3 2 1": "2 1 3", "correct 2 1 3": "3 2 1 0", "correct 3 2 1 0": "3 3 3"}
    result, asked = run(operations, replies)
    assert asked[1:] == ["correct 3 2 1", "correct 2 1 3", "correct 3 2 1 0"]  # three tries
    assert result.answer.numbers == (2, 1, 3)


def test_refining_mends_what_a_checker_refused_and_leaves_alone_what_is_good():
    operations = {"sort": Generate(generator="sort", num_samples=2), "refine": Refine(generator="correct")}
    replies = {"sort 3 1 2": ["", "1 3 2"], "correct ": "1 2 3"}
    result, asked = run(operations, replies)
    assert asked == ["sort 3 1 2", "correct "]
    assert result.answer.numbers == (1, 2, 3)
    # A thought that cannot be mended is left out.
    result, asked = run({"sort": Generate(generator="sort"), "refine": Refine(generator="correct", max_tries=2)},
                        {"sort 3 1 2": "", "correct ": ""})  # fmt: skip
    assert asked == ["sort 3 1 2", "correct ", "correct "]
    assert result.answer is None


def test_refused_thoughts_go_no_further():
    operations = {
        "sort": Generate(generator="sort", num_samples=3),
        "valid": KeepValid(),
        "again": Generate(generator="sort"),
    }
    result, asked = run(operations, {"sort 3 1 2": ["", "2 1 3", ""], "sort 2 1 3": "1 2 3"})
    assert asked == ["sort 3 1 2", "sort 2 1 3"]
    assert result.answer.numbers == (1, 2, 3)


def test_selecting_by_place_and_by_state():
    operations = {
        "split": Generate(generator="split"),
        "second": Select(index=1, after="split"),
        "small": Select(where=lambda state: max(state.numbers) < 5, after="split"),
        "none": Select(index=7, after="split"),
        "both": Aggregate(generator="merge", after=("second", "small", "none")),
    }
    result, asked = run(operations, {"merge Choice 1:\n9 8\nChoice 2:\n4 2": "2 4 8 9"}, given="4 2 9 8")
    assert result.answer.numbers == (2, 4, 8, 9)
    assert len(asked) == 1


def test_scores_of_the_checkers_named_count():
    long = checker(name="long")(lambda state: float(len(state.numbers)))
    operations = {
        "sort": Generate(generator="sort", num_samples=2),
        "score": Score(checkers=("long",)),
        "best": KeepBest(),
    }
    replies = {"sort 3 1 2": ["1 2 3", "9 8 7 6 5"]}
    result, _ = run(operations, replies, checkers=[few_errors, long])
    assert result.answer.numbers == (9, 8, 7, 6, 5)
    result, _ = run({**operations, "score": Score()}, replies, checkers=[few_errors, long])
    assert result.answer.numbers == (1, 2, 3)


def test_thoughts_are_compared_where_the_graph_says_so():
    choose = checker(prompt="which? {candidates}", kind="vote", name="choose")(
        lambda states, completion: int(completion)
    )
    operations = {
        "sort": Generate(generator="sort", num_samples=3),
        "score": Score(checkers=("choose",), compare=True),
        "best": KeepBest(num_kept=1),
    }
    replies = {
        "sort 3 1 2": ["1 2 3", "3 2 1", "2 1 3"],
        "which? Choice 1:\n1 2 3\nChoice 2:\n3 2 1\nChoice 3:\n2 1 3": "2",
    }
    result, _ = run(operations, replies, checkers=[few_errors, choose])
    assert result.answer.numbers == (2, 1, 3)
    result, asked = run(operations, {"sort 3 1 2": ["1 2 3"]}, checkers=[few_errors, choose])
    assert result.answer.numbers == (1, 2, 3)
    assert len(asked) == 1  # a thought alone is not compared


def test_the_ground_truth_ends_the_search_where_it_is_asked_for():
    def is_sorted(state):
        return state.numbers == (1, 2, 3)

    operations = {
        "sort": Generate(generator="sort", num_samples=2),
        "truth": GroundTruth(),
        "again": Generate(generator="sort"),
    }
    result, asked = run(operations, {"sort 3 1 2": ["3 2 1", "1 2 3"]}, goal=is_sorted)
    assert (result.solved, result.stopped, len(asked)) == (True, "ground_truth", 1)
    result, asked = run(operations, {"sort 3 1 2": "3 2 1", "sort 3 2 1": "2 1 3"}, goal=is_sorted)
    assert (result.solved, result.stopped, result.answer.numbers) == (False, "done", (2, 1, 3))
    result, _ = run({"sort": operations["sort"]}, {"sort 3 1 2": ["3 2 1", "1 2 3"]}, goal=is_sorted, stop_on_goal=True)
    assert (result.solved, result.stopped) == (True, "goal")


def test_operations_that_end_with_nothing_leave_no_answer():
    operations = {"sort": Generate(generator="sort"), "best": KeepBest(), "merge": Aggregate()}
    result, asked = run(operations, {"sort 3 1 2": ""})
    assert (result.stopped, result.answer, result.solved, len(asked)) == ("done", None, False, 1)


def test_a_graph_that_is_cut_short_answers_with_the_best_of_what_is_done():
    result = sorting(merge_sort()).run("4 2 3 1", backend=ScriptedBackend(REPLIES), budget="thoughts=8")
    assert result.stopped == "budget"
    assert result.thought.score == 0.0
    assert len(result.answer.numbers) == 2


async def test_a_thought_found_by_two_branches_is_one_thought():
    operations = {
        "a": Generate(generator="sort"),
        "b": Generate(generator="sort", after=()),
        "both": Aggregate(generator="merge", after=("a", "b")),
    }
    result, asked = run(operations, {"sort 3 1 2": "1 2 3", "merge Choice 1:\n1 2 3": "1 2 3 3"})
    assert asked[-1] == "merge Choice 1:\n1 2 3"
    assert len(result.graph) == 3


# ------------------------------------------------------------------------------------- decided on the way


@pytest.mark.parametrize(("given", "levels"), [("7", 0), ("2 1", 1), ("5 4 3 2 1", 3), ("8 7 6 5 4 3 2 1", 3)])
async def test_a_merge_tree_is_as_high_as_there_are_parts(given, levels):
    search, outcome, _ = await run_search(merge_tree(), Part(digits(given)))
    assert search.graph.states[outcome.thought].numbers == tuple(sorted(digits(given)))
    assert search.controller.chosen == ({"merge": ["level"] * levels} if levels else {})
    assert outcome.stopped == "done"


async def test_neighbours_are_merged_and_one_left_over_goes_on_as_it_is():
    search, _, _ = await run_search(merge_tree(), Part((5, 4, 3, 2, 1)))
    merged = [(t.state.of, [p.state.of for p in t.parents]) for t in search.graph if len(t.parents) > 1]
    assert merged == [
        ((5, 4), [(5,), (4,)]),
        ((3, 2), [(3,), (2,)]),
        ((5, 4, 3, 2), [(5, 4), (3, 2)]),
        ((5, 4, 3, 2, 1), [(5, 4, 3, 2), (1,)]),
    ]


def test_many_parents_are_merged_at_once_where_no_size_is_given():
    operations = OperationGraph({"split": Generate(generator="one_by_one"), "merge": Aggregate()})
    program = Program(generators=[one_by_one, join], controller=GraphOfThoughts(operations=operations))
    result = program.run(Part((4, 3, 2, 1)))
    assert result.answer.numbers == (1, 2, 3, 4)
    assert len(result.thought.parents) == 4


def test_the_tree_is_built_for_the_parts_that_survived():
    survives = checker(name="survives")(lambda state: state.numbers != (9,))
    program = merge_tree()
    program = Program(
        start=program.start, generators=program.generators, checkers=[survives], controller=program.controller
    )
    result = program.run("3 9 2 9 1")
    assert result.answer.numbers == (1, 2, 3)
    assert program.run("9").answer is None


def test_a_decision_sees_the_thoughts_their_scores_and_what_they_were_made_from():
    seen = []

    def while_the_error_falls(thoughts):
        (thought,) = thoughts
        seen.append((thought.state.numbers, thought.score, thought.depth))
        return "correct" if thought.depth == 1 or thought.score > thought.parents[0].score else None

    plans = {"correct": OperationGraph({"correct": Generate(generator="correct")})}
    operations = {
        "sort": Generate(generator="sort"),
        "improve": Decide(choose=while_the_error_falls, plans=plans, max_rounds=9),
    }
    replies = {"sort 3 1 2": "3 2 1", "correct 3 2 1": "2 1 3", "correct 2 1 3": "3 1 2 0"}
    result, asked = run(operations, replies)
    assert len(asked) == 3
    assert seen == [((3, 2, 1), -2.0, 1), ((2, 1, 3), -1.0, 2), ((3, 1, 2, 0), -3.0, 3)]
    assert result.answer.numbers == (3, 1, 2, 0)  # what it ended with: a KeepBest after it would look back no further


def test_refining_while_it_gets_better_ends_at_the_first_try_that_does_not():
    operations = {"sort": Generate(generator="sort"), "refine": Refine(generator="correct", threshold=0.0)}
    replies = {"sort 3 1 2": "3 2 1", "correct 3 2 1": "2 1 3", "correct 2 1 3": "2 1 3 0", "correct 2 1 3 0": "1 2 3"}
    result, asked = run(operations, replies)
    assert (len(asked), result.answer.numbers) == (4, (1, 2, 3))
    operations["refine"] = Refine(generator="correct", threshold=0.0, while_better=True)
    result, asked = run(operations, replies)
    assert (len(asked), result.answer.numbers) == (3, (2, 1, 3))


def test_the_best_of_each_part_is_kept_in_the_order_of_the_parts():
    operations = {
        "sort": Generate(generator="sort", num_samples=4),
        "best": KeepBest(per=lambda state: len(state.numbers)),
        "merge": Aggregate(generator="merge"),
    }
    replies = {
        "sort 3 1 2": ["3 2 1", "1 2", "1 2 3", "1"],
        "merge Choice 1:\n1 2 3\nChoice 2:\n1 2\nChoice 3:\n1": "1",
    }
    result, _ = run(operations, replies)
    assert [parent.state.numbers for parent in result.thought.parents] == [(1, 2, 3), (1, 2), (1,)]


def test_plans_are_chosen_by_name_and_in_turn_and_may_decide_themselves():
    def by_length(thoughts):
        return {3: "three", 2: "two"}.get(len(thoughts[0].state.numbers))

    first = OperationGraph({"drop": Generate(generator="correct"), "inner": Decide(choose=by_length, plans={
        "two": OperationGraph({"drop": Generate(generator="correct")}), "three": LEVEL})})  # fmt: skip
    operations = {
        "sort": Generate(generator="sort"),
        "outer": Decide(choose=by_length, plans={"three": first, "two": LEVEL}, max_rounds=2),
    }
    result, asked = run(operations, {"sort 3 1 2": "1 2 3", "correct 1 2 3": "1 2", "correct 1 2": "1"})
    assert asked == ["sort 3 1 2", "correct 1 2 3", "correct 1 2"]
    assert result.answer.numbers == (1,)


def test_a_decision_ends_after_its_rounds():
    operations = {
        "sort": Generate(generator="sort"),
        "on": Decide(
            choose=lambda thoughts: "on", plans={"on": OperationGraph({"on": Generate(generator="sort")})}, max_rounds=3
        ),
    }
    replies = {"sort 3 1 2": "3 2 1", "sort 3 2 1": "2 3 1", "sort 2 3 1": "2 1 3", "sort 2 1 3": "1 2 3"}
    result, asked = run(operations, replies)
    assert (len(asked), result.stopped) == (4, "done")


def test_a_graph_that_grows_is_stopped_by_a_budget_with_its_best_so_far():
    replies = ScriptedBackend(lambda prompt, sample: "anything")
    result = merge_tree(join_by_model).run("4 3 2 1", backend=replies, budget="calls=2", max_in_flight=1)
    assert (result.stopped, result.usage.calls) == ("budget", 2)
    assert result.answer.numbers == (3, 4)  # the first level was done
    result = merge_tree(join_by_model).run("4 3 2 1", backend=replies, budget="calls=3")
    assert (result.stopped, result.answer.numbers) == ("done", (1, 2, 3, 4))


def test_the_same_seed_makes_the_same_choices():
    import random

    def reply(prompt, sample):
        return str(random.Random(f"{prompt}{sample}").randrange(10))

    def reply_in_any_order(shuffle):
        return ScriptedBackend(reply, shuffle=shuffle)

    operations = {
        "sort": Generate(generator="sort", num_samples=4),
        "on": Decide(
            choose=lambda thoughts: "on" if sum(t.state.numbers[0] for t in thoughts) % 3 else None,
            plans={
                "on": OperationGraph({"on": Generate(generator="sort", num_samples=2), "best": KeepBest(num_kept=3)})
            },
            max_rounds=6,
        ),
    }
    graphs = {
        sorting(operations).run("3 1 2", backend=reply_in_any_order(shuffle), seed=5).graph.to_json()
        for shuffle in (None, 1, 2)
    }
    assert len(graphs) == 1


def test_a_choice_that_cannot_be_made_is_an_error_that_names_it():
    def decide(choose):
        operations = {"sort": Generate(generator="sort"), "next": Decide(choose=choose, plans={"level": LEVEL})}
        return run(operations, {"sort 3 1 2": "1 2 3"})

    with pytest.raises(
        DeclarationError, match="operation 'next' chose 'levels'; its plans are 'level', and None ends it"
    ):
        decide(lambda thoughts: "levels")
    with pytest.raises(NodeError, match="'next: choose': raised AttributeError"):
        decide(lambda thoughts: thoughts[0].size)
    with pytest.raises(NodeError, match="'best: per': raised AttributeError"):
        run({"sort": Generate(generator="sort"), "best": KeepBest(per=lambda state: state.size)}, {"sort 3 1 2": "1"})


async def test_what_a_search_leaves_behind_is_bounded_by_its_thoughts():
    search, _, _ = await run_search(
        Program(generators=[split], controller=GraphOfThoughts(operations=OperationGraph({"a": Generate()}))),
        Part((2, 1)),
    )
    controller = search.controller
    assert not controller.asked
    assert not controller.queue
    assert not controller.under_way
    assert not controller.unchecked
