"""What each combinator does with its parts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from joining import asking, counting, scripted, word

from llmprog import Program, checker, generator
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.errors import CompileError, InputError, NodeError
from llmprog.search import BestOfN, BetaStop, WindowStop


def silent_on(*given):
    """Replies as ``word`` does, but says nothing to some questions."""
    return lambda text, sample: "" if text.partition(" ")[2] in given else word(text, sample)


# --------------------------------------------------------------------------------------------- Sequence


def test_a_sequence_hands_each_answer_on():
    result = Sequence(asking("plan"), asking("write"), Apply(str.upper)).run("x", backend=scripted())
    assert result.answer == "W(P(X))"
    assert (result.solved, result.stopped, result.usage.calls) == (True, "finished", 2)
    assert [part.answer for part in result.parts.values()] == ["p(x)", "w(p(x))", "W(P(X))"]
    assert [part.input for part in result.parts.values()] == ["x", "p(x)", "w(p(x))"]


def test_a_part_that_is_not_solved_ends_the_sequence():
    backend = scripted(silent_on("p(x)"))
    result = Sequence(asking("plan"), asking("write"), asking("last")).run("x", backend=backend)
    assert (result.answer, result.solved, result.stopped) == (None, False, "unsolved")
    assert result.explanation == "write: no solution, stopped: num_samples"
    assert list(result.parts) == ["plan", "write"]
    assert len(backend.requests) == 2


def test_the_last_parts_best_so_far_is_the_sequences():
    never = asking("write", goal=lambda state: False)
    result = Sequence(asking("plan"), never).run("x", backend=scripted())
    assert (result.answer, result.solved, result.stopped) == ("w(p(x))", False, "unsolved")


def test_programs_of_one_name_are_told_apart():
    refine = asking("refine")
    result = Sequence(refine, refine, refine).run("x", backend=scripted(), seed=1)
    assert list(result.parts) == ["refine", "refine-2", "refine-3"]
    assert len({part.seed for part in result.parts.values()}) == 3
    assert result.answer == "r(r(r(x)))"


# -------------------------------------------------------------------------------------------------- Map


@pytest.mark.parametrize("concurrency", [None, 1, 3])
def test_a_map_keeps_the_order_and_its_limit(concurrency):
    under_way, most = 0, 0

    async def slow(item):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (10 - item))
        under_way -= 1
        return item * item

    result = Map(Apply(slow), concurrency=concurrency).run(range(10))
    assert result.answer == [i * i for i in range(10)]
    assert list(result.parts) == [str(i) for i in range(10)]
    assert most == (concurrency or 10)


def test_a_map_over_nothing_is_nothing():
    result = Map(asking("write")).run([], backend=scripted())
    assert (result.answer, result.solved, result.parts) == ([], True, {})


@pytest.mark.parametrize(
    ("on_unsolved", "answer", "solved"),
    [
        ("error", ["w(a)", None, None, None], False),
        ("skip", ["w(a)", "w(c)"], True),
        (None, ["w(a)", None, "w(c)", None], True),
    ],
)  # fmt: skip
def test_a_map_does_with_what_is_not_solved_as_it_is_told(on_unsolved, answer, solved):
    backend = scripted(silent_on("b", "d"))
    result = Map(asking("write"), on_unsolved=on_unsolved).run(list("abcd"), backend=backend)
    assert (result.answer, result.solved) == (answer, solved)


@pytest.mark.parametrize("shuffle", range(8))
def test_what_counts_of_a_map_that_is_not_solved_does_not_depend_on_timing(shuffle):
    backend = scripted(silent_on("3", "5"), shuffle=shuffle)
    result = Map(asking("write"), concurrency=4).run([str(i) for i in range(40)], backend=backend, seed=1)
    assert list(result.parts) == ["0", "1", "2", "3"]
    assert (result.stopped, result.explanation) == ("unsolved", "3: no solution, stopped: num_samples")
    assert len(result.graph) == 6  # the input, four items and what there is so far
    assert len(backend.requests) < 40  # the last ones were not begun


@pytest.mark.parametrize("given", ["a text", {"a": 1}, 7])
def test_a_map_takes_lists_only(given):
    with pytest.raises(InputError, match=r"program 'map' takes a list of inputs, not"):
        Map(counting()).run(given)


# ----------------------------------------------------------------------------------------------- Branch


def test_a_branch_goes_where_its_function_says():
    program = Branch(lambda text: len(text) > 3, {True: asking("long"), False: asking("short")})
    assert program.run("abcd", backend=scripted()).answer == "l(abcd)"
    result = program.run("ab", backend=scripted())
    assert result.answer == "s(ab)"
    assert list(result.parts) == ["False"]


def test_a_program_can_decide_for_a_branch():
    program = Branch(asking("kind"), {"k(x)": asking("first")}, otherwise=asking("second"))
    result = program.run("x", backend=scripted())
    assert (result.answer, list(result.parts), result.usage.calls) == ("f(x)", ["on", "k(x)"], 2)
    assert program.run("y", backend=scripted()).answer == "s(y)"
    undecided = program.run("x", backend=scripted(silent_on("x")))
    assert (undecided.solved, undecided.explanation) == (False, "on: no solution, stopped: num_samples")


@pytest.mark.parametrize("key", ["c", ["c"]])
def test_a_key_without_a_case_is_an_error_that_names_the_cases(key):
    with pytest.raises(NodeError, match=r"node 'on': gave .*'c'.*; cases: 'a', 'b'; add otherwise="):
        Branch(lambda _: key, {"a": counting(), "b": counting()}).run(1)


# ------------------------------------------------------------------------------------------------- Loop


def test_a_loop_ends_when_the_answer_will_do():
    result = Loop(counting(), until=lambda n: n >= 3, max_rounds=9).run(0)
    assert (result.answer, result.solved, result.stopped) == (3, True, "goal")
    assert list(result.parts) == ["1", "2", "3"]
    assert [thought.state for thought in result.graph.path(result.thought.id)] == [0, 1, 2, 3]


def test_a_loop_that_does_not_get_there_has_its_last_answer():
    result = Loop(counting(), until=lambda n: False, max_rounds=4).run(0)
    assert (result.answer, result.solved, result.stopped) == (4, False, "max_rounds")
    assert result.explanation == "the answer will not do after 4 rounds"


def test_a_round_that_is_not_solved_leaves_the_answer_of_the_one_before():
    program = Loop(asking("more"), until=lambda text: False, max_rounds=9)
    result = program.run("x", backend=scripted(silent_on("m(m(x))")))
    assert (result.answer, result.solved, result.stopped) == ("m(m(x))", False, "unsolved")
    assert result.thought.state == "m(m(x))"
    assert program.run("x", backend=scripted(silent_on("x"))).answer is None


# ----------------------------------------------------------------------------------------------- Reduce


def joined_text(pair: tuple[str, str]) -> str:
    return f"({pair[0]}{pair[1]})"


def test_a_fold_goes_from_left_to_right():
    result = Reduce(Apply(joined_text)).run(list("abcd"))
    assert result.answer == "(((ab)c)d)"
    assert list(result.parts) == ["1", "2", "3"]


def test_an_associative_program_joins_neighbours_side_by_side():
    result = Reduce(Apply(joined_text), associative=True).run(list("abcdefg"))
    assert result.answer == "(((ab)(cd))((ef)g))"
    assert list(result.parts) == ["1-0", "1-1", "1-2", "2-0", "2-1", "3-0"]
    assert result.thought.state == result.answer


@pytest.mark.parametrize("associative", [True, False])
def test_nothing_is_joined_where_there_is_one(associative):
    program = Reduce(Apply(joined_text), associative=associative)
    assert program.run(["a"]).answer == "a"
    assert Reduce(Apply(joined_text), associative=associative, initial="-").run([]).answer == "-"
    assert Reduce(Apply(joined_text), associative=associative, initial="-").run(["a"]).answer == "(-a)"
    with pytest.raises(InputError, match="nothing to join in an empty list"):
        program.run([])


@pytest.mark.parametrize("associative", [True, False])
def test_a_pair_that_is_not_solved_ends_a_reduction(associative):
    picky = Apply(lambda pair: None if pair[1] == "c" else pair[0] + pair[1], name="pick")
    result = Reduce(picky, associative=associative).run(list("abc"))
    assert (result.answer, result.solved, result.stopped) == (None, False, "unsolved")
    assert result.explanation.endswith("pick returned None")


# ------------------------------------------------------------------------------------------------- Vote


class Opinions:
    """A part whose replies come from a list, by the number of the vote's run, found out from its seed."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.num_runs = 0

    def program(self, **options):
        async def opinion(given):
            self.num_runs += 1
            return self.replies[self.num_runs - 1]

        return Apply(opinion, **options)


def test_the_majority_answers():
    result = Vote(Opinions("7", "07.0", "8", None, "8 ", "7").program(), num_samples=6).run("x")
    assert (result.answer, result.solved, result.stopped) == ("7", True, "num_samples")
    assert result.votes.histogram == (("7", 3), ("8", 2))
    assert (result.votes.num_samples, result.votes.num_valid, result.votes.num_allowed) == (6, 5, 6)
    assert list(result.parts) == list("012345")


def test_a_tie_goes_to_the_first_seen():
    assert Vote(Opinions("b", "a", "a", "b").program(), num_samples=4).run("x").answer == "b"


def test_nobody_votes():
    result = Vote(Opinions(None, None).program(), num_samples=2).run("x")
    assert (result.answer, result.solved, result.explanation) == (None, False, "none of 2 runs voted")


@pytest.mark.parametrize(
    ("stopping", "drawn"), [(WindowStop(window=3), 6), (BetaStop(confidence=0.8, batch_size=2), 4)]
)
def test_a_vote_that_is_sure_begins_no_more_runs(stopping, drawn):
    opinions = Opinions("a", "b", "a", "a", "a", "a", "b", "b", "b", "b")
    result = Vote(opinions.program(), num_samples=10, stopping=stopping).run("x")
    assert (result.answer, result.stopped, opinions.num_runs) == ("a", "confident", drawn)
    assert result.votes.num_samples == drawn


def test_a_vote_compares_by_the_form_it_is_given():
    result = Vote(Opinions("ax", "b", "ay").program(), num_samples=3, canonical=lambda answer: answer[0]).run("x")
    assert result.votes.histogram == (("ax", 2), ("b", 1))
    with pytest.raises(NodeError, match="node 'canonical': its function raised ZeroDivisionError"):
        Vote(Opinions("a").program(), num_samples=1, canonical=lambda answer: 1 / 0).run("x")


def test_runs_of_a_vote_have_seeds_of_their_own():
    backend = scripted(lambda text, sample: "x")
    result = Vote(asking("q"), num_samples=4).run("", backend=backend, seed=1)
    assert len({part.seed for part in result.parts.values()}) == 4
    assert len({request.params.seed for request in backend.requests}) == 4


# --------------------------------------------------------------------------------------------- Parallel


@dataclass(frozen=True)
class Page:
    title: str
    text: str


def test_one_input_feeds_several_parts():
    parts = {"title": asking("title"), "text": asking("write")}
    result = Parallel(parts).run("x", backend=scripted())
    assert result.answer == {"title": "t(x)", "text": "w(x)"}
    assert [p.id for p in result.thought.parents] == [1, 2]
    assert Parallel(parts, join=Page).run("x", backend=scripted()).answer == Page("t(x)", "w(x)")


def test_all_parts_of_parallel_have_to_be_solved():
    parts = {"title": asking("title"), "text": Apply(lambda _: None, name="nothing")}
    result = Parallel(parts).run("x", backend=scripted())
    assert (result.answer, result.solved) == ({"title": "t(x)"}, False)
    assert result.explanation == "text: nothing returned None"
    assert Parallel(parts, join=Page).run("x", backend=scripted()).answer is None
    refused = Parallel({"title": asking("title")}, join=lambda title: None).run("x", backend=scripted())
    assert (refused.solved, refused.stopped, refused.explanation) == (False, "unsolved", "join returned None")


# ------------------------------------------------------------------------------------------------ Apply


def test_apply_calls_functions_classes_and_coroutine_functions():
    async def later(text):
        await asyncio.sleep(0)
        return text + "!"

    assert Apply(len).run("abc").answer == 3
    assert Apply(int).run("12").answer == 12
    assert Apply(later).run("x").answer == "x!"
    assert Apply(lambda x: x).name == "apply"


def test_an_error_in_a_function_names_it_and_keeps_its_cause():
    with pytest.raises(NodeError, match="node 'reciprocal': its function raised ZeroDivisionError") as caught:
        Apply(lambda x: 1 / x, name="reciprocal").run(0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# ----------------------------------------------------------------------------------------------- errors


def test_an_error_in_a_part_keeps_what_the_others_came_to():
    @generator(name="say")
    def fail(state: str) -> list[str]:
        raise ValueError("no")

    bad = Program(generators=[fail], controller=BestOfN(num_samples=1), name="bad")
    with pytest.raises(NodeError, match="node 'say': its function raised ValueError: no") as caught:
        Sequence(asking("plan"), Sequence(bad, name="inner"), name="outer").run("x", backend=scripted())
    partial = caught.value.partial
    assert (partial.program, partial.stopped, partial.usage.calls) == ("outer", "error", 1)
    assert partial.parts["plan"].answer == "p(x)"
    assert partial.parts["inner"].parts["bad"].stopped == "error"


def test_an_answer_that_the_next_part_cannot_take_is_an_input_error():
    number = Program(
        generators=[generator(lambda n: [n], name="same")], controller=BestOfN(num_samples=1), start=int, name="number"
    )
    with pytest.raises(InputError, match=r"program 'number' cannot use the input 'p\(x\)'"):
        Sequence(asking("plan"), number).run("x", backend=scripted())


def test_a_joined_program_nests_to_any_depth():
    program = asking("plan")
    for level in range(1, 6):
        program = Loop(Sequence(program, Apply(str.swapcase), name=f"level{level}"), until=len, max_rounds=1)
    result = program.run("x", backend=scripted())
    assert (result.answer, result.usage.calls) == ("P(X)", 1)
    for part in ("loop", "loop", "loop", "loop", "plan"):
        result = result.parts["1"].parts[part]
    assert (result.program, result.answer) == ("plan", "p(x)")


def test_checkers_judge_inside_parts():
    @checker
    def short(state: str) -> bool:
        return len(state) < 6

    say = asking("plan").generators[0]
    program = Program(generators=[say], checkers=[short], controller=BestOfN(num_samples=1), name="short")
    result = Map(program, on_unsolved="skip").run(["a", "abcdef"], backend=scripted())
    assert result.answer == ["p(a)"]


def test_a_program_in_itself_is_a_plain_value():
    with pytest.raises(CompileError, match=r"part 'part-1': 'write' is not a program; wrap a function in Apply"):
        Map("write").run([])
