"""WeightedVote and UniversalSelfConsistency: what a chain's vote weighs, and who picks where nothing can be counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llmprog import Completion, Program, Usage, Verdict, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import CompileError, OptionError
from llmprog.search import BetaStop, UniversalSelfConsistency, WeightedVote, most_consistent
from llmprog.types import Logprobs


class LikelyBackend(ScriptedBackend):
    """A scripted backend whose completions may have log-probabilities."""

    def __init__(self, script):
        super().__init__(script)
        self.capabilities = replace(self.capabilities, logprobs=True)


@generator(prompt="Q", logprobs=True)
def say(state: str, completion: str):
    return [completion] if completion else None


@checker
def worth(state: str) -> Verdict:
    """``answer=score``; no score refuses."""
    _, _, score = state.partition("=")
    return Verdict(score=float(score or 0), valid=bool(score))


def vote(replies, **options):
    program = Program(
        generators=[say],
        checkers=[worth] if options.get("weight", "score") == "score" else [],
        controller=WeightedVote(num_samples=len(replies), **options),
        answer=lambda state: state.partition("=")[0],
    )
    return program.run("", backend=LikelyBackend(lambda text, sample: replies[sample]), seed=0)


def said(text, *logprobs):
    given = Logprobs(tokens=("t",) * len(logprobs), logprobs=logprobs) if logprobs else None
    return Completion(text=text, logprobs=given, usage=Usage(1))


def test_scores_are_summed_per_answer():
    result = vote(["7=0.5", "8=0.6", "7=0.25", "8=0.1", "9=0.7"])
    assert result.answer == "7"
    assert result.votes.histogram == (("7", 0.75), ("8", pytest.approx(0.7)), ("9", 0.7))
    assert result.votes.confidence is None


def test_one_good_chain_outweighs_a_majority():
    result = vote(["7=0.1", "7.0=0.1", "seven=0.1", "8=0.9", "7=0.05"])
    assert result.answer == "8"
    assert result.votes.histogram == (("8", 0.9), ("7", pytest.approx(0.25)), ("seven", 0.1))


def test_the_weight_of_a_chain_is_the_mean_probability_of_its_tokens():
    result = vote(
        [said("a", -0.1, -0.3), said("b", -1.0), said("b", -2.0, -2.0, -2.0), said("c", -0.25)], weight="logprob"
    )
    assert result.answer == "a"
    assert dict(result.votes.histogram) == pytest.approx(
        {"a": math.exp(-0.2), "b": math.exp(-1) + math.exp(-2), "c": math.exp(-0.25)}
    )


def test_ties_go_to_the_higher_mean_logprob_where_it_is_known_else_to_the_first_seen():
    assert vote(["a=0.3", "b=0.1", "b=0.2"]).answer == "a"  # 0.1 + 0.2 is 0.3, whatever the rounding
    assert vote(["b=0.1", "a=0.3", "b=0.2"]).answer == "b"
    assert vote([said("a=0.5", -0.9), said("b=0.5", -0.1)]).answer == "b"
    assert vote([said("a=0.5", -0.9), said("b=0.5")]).answer == "a"


def test_refused_and_unreadable_chains_have_no_weight_and_are_counted():
    result = vote(["7=0.5", "8", "", "7=0.5"])
    assert result.votes.histogram == (("7", 1.0),)
    assert (result.votes.num_valid, result.votes.num_samples) == (2, 4)


def test_a_vote_of_weight_zero_is_still_shown(capsys):
    from rich.console import Console

    from llmprog.terminal import print_result

    result = vote(["7=0", "8=0"])
    assert result.votes.histogram == (("7", 0.0), ("8", 0.0))
    print_result(Console(), result)
    assert "0 █ 7" in capsys.readouterr().out


def test_weights_that_cannot_be_are_refused():
    with pytest.raises(OptionError, match="thought 1 has the score -1, and a weight is a number >= 0"):
        vote(["7=-1"])
    with pytest.raises(OptionError, match="came without log-probabilities"):
        vote([said("7")], weight="logprob")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedVote(num_samples=2, weight="length"), "weight='length'; allowed is score or logprob"),
        (lambda: WeightedVote(num_samples=2, stopping=BetaStop()), "allowed is None: stopping rules count votes"),
        (lambda: UniversalSelfConsistency(num_samples=0), "num_samples=0"),
        (lambda: UniversalSelfConsistency(num_samples=1, stop_on_goal=True), "stop_on_goal=True"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        (WeightedVote(num_samples=2), "weight='score' without checkers"),
        (WeightedVote(num_samples=2, weight="logprob"), "'guess' does not ask for log-probabilities"),
        (UniversalSelfConsistency(num_samples=2), r"give checkers=\[most_consistent\(\)\]"),
    ],
)
def test_a_program_that_lacks_what_a_vote_needs_does_not_compile(controller, message):
    guess = generator(prompt="Q", name="guess")(lambda state, completion: [completion])
    with pytest.raises(CompileError, match=message):
        Program(generators=[guess], controller=controller).run("")


def pick(replies, picks, checkers=(), **options):
    """Universal self-consistency over ``replies`` by a judge that says ``picks``; the result and what it was asked."""
    judge = most_consistent(question=lambda state: "Why?", n=len(picks))
    program = Program(
        generators=[say],
        checkers=[*checkers, judge],
        controller=UniversalSelfConsistency(num_samples=len(replies), **options),
    )
    backend = LikelyBackend(lambda text, sample: replies[sample] if text == "Q" else f"Hm.\nResponse {picks[sample]}")
    result = program.run("", backend=backend, seed=0)
    return result, [r.prompt.text for r in backend.requests if r.prompt.text != "Q"]


def test_a_model_picks_the_most_consistent_response():
    result, asked = pick(["because", "so it is", "as it is", ""], [3])
    assert result.answer == "as it is"
    assert result.stopped == "num_samples"
    assert result.votes.histogram == (("as it is", 1.0), ("because", 0.0), ("so it is", 0.0))
    assert (result.votes.num_samples, result.votes.num_valid) == (4, 3)
    assert len(asked) == 1
    assert "to the question: Why?\n\nResponse 1:\nbecause\n\nResponse 2:\nso it is\n" in asked[0]


def test_equal_responses_are_shown_as_often_as_they_came_and_their_choices_are_summed():
    result, asked = pick(["yes", "no", "yes", "maybe"], [1, 3, 2, 4, 2])
    assert "Response 3:\nyes" in asked[0]
    assert result.votes.histogram == (("yes", 2.0), ("no", 2.0), ("maybe", 1.0))
    assert result.answer == "yes"  # of those picked equally often, the one that more chains gave


def test_ties_among_single_chains_go_to_the_higher_logprob_then_to_the_first():
    result, _ = pick([said("a", -0.9), said("b", -0.1)], [1, 2])
    assert result.answer == "b"
    result, _ = pick([said("a", -0.9), said("b")], [1, 2])
    assert result.answer == "a"


def test_scores_of_other_checkers_do_not_count():
    long = checker(name="long")(lambda state: float(len(state)))
    result, _ = pick(["a", "bbbbbb"], [1], checkers=[long])
    assert result.answer == "a"
    assert dict(result.votes.histogram) == {"a": 1.0, "bbbbbb": 0.0}


def test_chains_that_agree_need_no_judge():
    result, asked = pick(["same", "same"], [1])
    assert result.answer == "same"
    assert result.votes.histogram == (("same", 2.0),)
    assert not asked


def test_a_choice_off_the_menu_abstains_and_without_responses_there_is_no_answer():
    result, _ = pick(["a", "b", "b"], [9])
    assert result.answer == "b"
    result, asked = pick(["", ""], [1])
    assert (result.answer, result.solved, asked) == (None, False, [])
