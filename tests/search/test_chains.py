"""SelfConsistency and BestOfN: independent chains, counted once each."""

from __future__ import annotations

import pytest

from llmprog import Completion, Program, Usage, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.search import BestOfN, BetaStop, BreadthFirstSearch, SelfConsistency, Status
from llmprog.types import Logprobs


@generator(prompt="Q")
def say(state: str, completion: str):
    return [completion] if completion else None


def vote(replies, *, checkers=(), answer=None, goal=None, **options):
    program = Program(
        generators=[say],
        checkers=checkers,
        controller=SelfConsistency(num_samples=len(replies), **options),
        answer=answer,
        goal=goal,
    )
    return program.run("", backend=ScriptedBackend(lambda text, sample: replies[sample]), seed=0)


def said(text, logprob=None, *, cut=False):
    logprobs = None if logprob is None else Logprobs(tokens=("t", "u"), logprobs=(logprob, logprob))
    return Completion(text=text, finish_reason="length" if cut else "stop", logprobs=logprobs, usage=Usage(1))


def test_the_majority_is_the_answer():
    result = vote(["8", "7", "8", "", "9", "8", "7"])
    assert result.answer == "8"
    assert result.solved
    assert result.stopped == "num_samples"
    assert result.votes.histogram == (("8", 3), ("7", 2), ("9", 1))
    assert (result.votes.num_samples, result.votes.num_valid, result.votes.num_allowed) == (7, 6, 7)


def test_answers_vote_in_canonical_form_and_are_shown_as_first_seen():
    result = vote(["$3", "1,234", "3", "1234.0", "Paris ", "1234", "paris"])
    assert result.votes.histogram == (("1,234", 3), ("$3", 2), ("Paris ", 2))
    assert result.answer == "1,234"


def test_truncated_and_refused_chains_do_not_vote_and_are_counted():
    odd = checker(name="odd")(lambda s: int(s) % 2 == 1)
    result = vote([said("5", cut=True), said("5", cut=True), "4", "4", "4", "7"], checkers=[odd])
    assert result.votes.histogram == (("7", 1),)
    assert result.votes.num_valid == 1
    assert result.votes.num_samples == 6
    assert [t.state for t in result.graph if t.status == Status.INVALID] == ["4"]


def test_a_thought_that_one_chain_cut_short_still_votes_for_another():
    assert vote([said("5", cut=True), said("5")]).votes.histogram == (("5", 1),)


def test_ties_go_to_the_higher_mean_logprob_where_it_is_known():
    assert vote([said("a", -0.9), said("b", -0.1)]).answer == "b"
    assert vote([said("a", -0.9), said("b")]).answer == "a"
    assert vote(["b", "a", "a", "b"]).answer == "b"


@pytest.mark.fault("users", "an empty vote", "unsolved, without an answer or a confidence")
def test_without_a_valid_sample_there_is_no_answer():
    result = vote(["", ""])
    assert result.answer is None
    assert not result.solved
    assert result.votes.histogram == ()
    assert result.votes.confidence is None


def test_the_answer_function_and_the_canonical_function_are_used():
    result = vote(["x=1", "y=1", "z=2"], answer=lambda s: s.partition("=")[2] or None)
    assert result.votes.histogram == (("1", 2), ("2", 1))
    result = vote(["apple", "avocado", "banana"], canonical=lambda a: a[0] if a[0] != "b" else None)
    assert result.votes.histogram == (("apple", 2),)
    assert result.votes.num_valid == 2


def test_a_vote_does_not_filter_by_the_goal_but_says_whether_its_answer_reaches_it():
    result = vote(["1", "1", "2"], goal=lambda s: s == "2")
    assert result.answer == "1"
    assert not result.solved
    assert vote(["2", "1", "2"], goal=lambda s: s == "2").solved


def test_samples_used_count_what_was_drawn():
    replies = ["a"] * 4 + ["b"] * 36
    program = Program(generators=[say], controller=SelfConsistency(num_samples=40, stopping=BetaStop(0.95)))
    backend = ScriptedBackend(lambda text, sample: replies[sample])
    result = program.run("", backend=backend)
    assert result.stopped == "confident"
    assert result.votes.num_samples == len(backend.requests) == result.usage.calls == 4
    assert result.votes.confidence == pytest.approx(1 - 2**-5)


@generator(prompt="after {state}:")
def extend(state: str, completion: str):
    return [state + completion]


def test_chains_of_several_steps_take_every_step():
    program = Program(generators=[extend], controller=SelfConsistency(num_samples=4, max_depth=3))
    backend = ScriptedBackend(lambda text, sample: "ab"[sample % 2])
    result = program.run("", backend=backend)
    assert len(backend.requests) == 12
    assert sum(n for _, n in result.votes.histogram) == 4
    assert {len(answer) for answer, _ in result.votes.histogram} == {3}


def test_a_chain_that_walks_in_a_circle_ends_at_its_depth():
    back = generator(prompt="go", name="back")(lambda state, completion: [int(completion)])
    program = Program(generators=[back], controller=SelfConsistency(num_samples=3, max_depth=5))
    backend = ScriptedBackend(lambda text, sample: str(sample % 2))
    result = program.run(0, backend=backend)
    assert len(backend.requests) == 15
    assert sum(n for _, n in result.votes.histogram) == 3


def test_a_chain_ends_where_it_reaches_the_goal():
    program = Program(
        generators=[extend], controller=SelfConsistency(num_samples=2, max_depth=9), goal=lambda s: len(s) == 2
    )
    backend = ScriptedBackend(lambda text, sample: "a")
    result = program.run("", backend=backend)
    assert result.votes.histogram == (("aa", 2),)
    assert len(backend.requests) == 4


def test_best_of_n_returns_the_chain_with_the_highest_score():
    worth = checker(name="worth")(lambda s: float(len(s)))
    program = Program(generators=[say], checkers=[worth], controller=BestOfN(num_samples=4))
    result = program.run("", backend=ScriptedBackend(lambda text, sample: ["a", "ccc", "bb", "ddd"][sample]))
    assert result.answer == "ccc"
    assert result.stopped == "num_samples"
    assert result.votes is None


@pytest.mark.parametrize(("batch_size", "calls"), [(1, 3), (2, 4), (None, 8)])
def test_best_of_n_stops_at_the_first_chain_that_reaches_the_goal(batch_size, calls):
    program = Program(
        generators=[say], controller=BestOfN(num_samples=8, batch_size=batch_size), goal=lambda s: s == "yes"
    )
    backend = ScriptedBackend(lambda text, sample: ["no", "nope", "yes", "yes", "no", "no", "no", "no"][sample])
    result = program.run("", backend=backend)
    assert result.answer == "yes"
    assert result.stopped == "goal"
    assert len(backend.requests) <= calls


def test_best_of_n_ignores_unfinished_and_invalid_chains():
    worth = checker(name="worth")(lambda s: -len(s) if s != "bad" else False)
    program = Program(generators=[extend], checkers=[worth], controller=BestOfN(num_samples=2, max_depth=2))
    result = program.run("", backend=ScriptedBackend(lambda text, sample: "x"))
    assert result.answer == "xx"  # "x" scores higher and is only half of a chain


def test_chains_by_plain_moves_vote_too():
    go = generator(name="go")(lambda state: [state + 1, state + 2])
    result = Program(generators=[go], controller=SelfConsistency(num_samples=3, max_depth=2)).run(0)
    assert result.votes.histogram == ((2, 3),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfConsistency(num_samples=0), "num_samples=0; allowed is a whole number >= 1"),
        (lambda: SelfConsistency(num_samples=2, max_depth=0), "max_depth=0"),
        (lambda: SelfConsistency(num_samples=2, stopping="soon"), r"stopping='soon'; allowed is None, BetaStop\(...\)"),
        (lambda: SelfConsistency(num_samples=2, stop_on_goal=True), "stop_on_goal=True"),
        (lambda: BestOfN(num_samples=2, batch_size=0), "batch_size=0"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_a_controller_that_never_compares_refuses_comparers():
    from llmprog.errors import CompileError

    choose = checker(prompt="{candidates}", kind="vote", name="choose")(lambda states, completion: 0)
    with pytest.raises(CompileError, match="checker 'choose' is unreachable"):
        Program(generators=[say], checkers=[choose], controller=BreadthFirstSearch(max_depth=1)).run("")
