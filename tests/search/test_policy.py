"""Learned policies: what they see, what they can decide, the files they live in, and the controller that asks them."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from llmprog import Program, checker, compile_program, generator
from llmprog.errors import OptionError
from llmprog.search import (
    Decision,
    LearnedPolicy,
    PolicyController,
    RollbackRules,
    Situation,
    TreeOfThoughtController,
    load_policy,
)
from llmprog.search.policy_features import (
    allowed_actions,
    decision_of,
    feature_names,
    features_of,
    num_actions,
)
from llmprog.search.policy_file import PolicyDescription, digest_of, read_policy, write_policy
from llmprog.search.policy_network import PolicyNetwork

SITUATION = Situation(
    verdict="refused",
    line=("", "a", "ab"),
    visits=(1, 2, 6),
    failures=(0, 0, 4),
    ages=(12, 5, 0),
    scores=(0.0, 1.0, 1.0),
    proposal="abc",
    proposal_visits=2,
    proposal_score=2.0,
    num_rounds=25,
    num_stalled=15,
    max_rounds=100,
    max_depth=8,
)


@st.composite
def situations(draw):
    length = draw(st.integers(1, 9))
    counts = st.lists(st.integers(0, 200), min_size=length, max_size=length).map(tuple)
    score = st.floats(allow_nan=False)
    has_proposal = draw(st.booleans())
    return Situation(
        verdict=draw(st.sampled_from(["valid", "refused", "repeated", "too_deep"])) if has_proposal else "unreadable",
        line=tuple(range(length)),
        visits=draw(counts),
        failures=draw(counts),
        ages=draw(counts),
        scores=draw(st.lists(score, min_size=length, max_size=length).map(tuple)),
        proposal="x" if has_proposal else None,
        proposal_visits=draw(st.integers(0, 100)),
        proposal_score=draw(score) if has_proposal else 0.0,
        num_rounds=draw(st.integers(1, 50)),
        num_stalled=draw(st.integers(0, 50)),
        max_rounds=50,
        max_depth=9,
    )


def network_of(max_back=3, hidden_size=4, seed=0, scale=1.0):
    """A network whose decisions depend on what it sees."""
    made = torch.Generator().manual_seed(seed)
    network = PolicyNetwork(len(feature_names(max_back)), max_back, hidden_size, made)
    with torch.no_grad():
        network.out.weight.normal_(std=scale, generator=made)
    return network.requires_grad_(False)


def policy_of(network, max_back=3):
    return LearnedPolicy(
        max_back=max_back, program="p", program_hash="h", training={}, digest=digest_of(network), network=network
    )


# ---------------------------------------------------------------------------------------------------- features


def test_the_features_are_what_their_names_say():
    seen = dict(zip(feature_names(4), features_of(SITUATION, 4), strict=True))
    assert {name for name, value in seen.items() if name.startswith("verdict.") and value} == {"verdict.refused"}
    assert seen["proposal.visits"] == 2 / 4
    assert seen["proposal.gain"] == math.tanh(1)
    assert (seen["depth"], seen["depth.share"]) == (2 / 6, 2 / 8)
    assert (seen["rounds.share"], seen["stalled"]) == (0.25, 15 / 20)
    assert [seen[f"ancestor.{i}.exists"] for i in range(4)] == [1, 1, 1, 0]
    assert [seen[f"ancestor.{i}.visits"] for i in range(4)] == [6 / 8, 2 / 4, 1 / 3, 0]
    assert [seen[f"ancestor.{i}.failures"] for i in range(4)] == [4 / 6, 0, 0, 0]
    assert [seen[f"ancestor.{i}.age"] for i in range(4)] == [0, 5 / 10, 12 / 17, 0]
    assert [seen[f"ancestor.{i}.gain"] for i in range(4)] == [0, math.tanh(1), 0, 0]


@given(situations(), st.integers(1, 12))
def test_features_are_as_many_as_their_names_and_between_minus_one_and_one(situation, max_back):
    names, values = feature_names(max_back), features_of(situation, max_back)
    assert len(set(names)) == len(names) == len(values)
    assert all(-1 <= value <= 1 for value in values)


@given(situations(), st.integers(1, 12))
def test_what_is_possible_is_what_the_controller_can_do(situation, max_back):
    allowed = allowed_actions(situation, max_back)
    assert len(allowed) == num_actions(max_back)
    for action, is_possible in enumerate(allowed):
        decision = decision_of(action, max_back)
        if decision.stop:
            assert is_possible
        elif not decision.back:
            assert is_possible == (situation.verdict == "valid")
        else:
            assert is_possible == (decision.back <= len(situation.line))


@given(situations(), st.integers(0, 1000))
def test_the_network_gives_everything_that_is_possible_a_share_and_nothing_else(situation, seed):
    policy = policy_of(network_of(seed=seed))
    logprobs = policy.log_probabilities(situation)
    assert math.isclose(sum(map(math.exp, logprobs)), 1)
    assert [logprob > -math.inf for logprob in logprobs] == list(allowed_actions(situation, 3))


# ---------------------------------------------------------------------------------------------------- decisions


@given(situations(), st.integers(0, 1000))
def test_greedy_takes_the_likeliest_and_draws_nothing(situation, seed):
    policy = policy_of(network_of(seed=seed))
    rng = random.Random(1)
    decision = policy.decide(situation, rng, selection="greedy")
    logprobs = policy.log_probabilities(situation)
    assert decision == decision_of(logprobs.index(max(logprobs)), 3)
    assert rng.getstate() == random.Random(1).getstate()


def test_sampled_decisions_come_as_often_as_the_network_says():
    policy = policy_of(network_of(scale=0.3))
    rng = random.Random(7)
    drawn = [policy.decide(SITUATION, rng) for _ in range(4000)]
    for action, logprob in enumerate(policy.log_probabilities(SITUATION)):
        share, wanted = drawn.count(decision_of(action, 3)) / len(drawn), math.exp(logprob)
        assert abs(share - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / len(drawn))


def test_a_policy_that_knows_nothing_hardly_ever_gives_up():
    network = PolicyNetwork(len(feature_names(3)), 3, 4, torch.Generator().manual_seed(0))
    for verdict in ("valid", "refused"):
        logprobs = policy_of(network).log_probabilities(replace(SITUATION, verdict=verdict))
        assert math.exp(logprobs[-1]) < 0.01
        assert max(logprobs) == logprobs[0 if verdict == "valid" else 1]


# ---------------------------------------------------------------------------------------------------- the controller


@generator
def letters(word: str) -> list[str]:
    return [word + letter for letter in "abc"]


@checker
def no_double_letters(word: str) -> bool:
    return all(a != b for a, b in itertools.pairwise(word))


def spelling(controller):
    return Program(
        name="spelling",
        generators=[letters],
        checkers=[no_double_letters],
        controller=controller,
        goal=lambda word: word == "cabac",
    )


def test_the_same_seed_gives_the_same_graph_and_another_another():
    controller = PolicyController(max_depth=6, max_rounds=30, policy=policy_of(network_of()), selection="sample")
    graphs = [json.dumps(spelling(controller).run("", seed=seed).graph.to_json()) for seed in (1, 1, 2, 3, 4)]
    assert graphs[0] == graphs[1]
    assert len(set(graphs)) > 1


def test_a_policy_can_decide_for_the_plain_controller_too():
    policy = policy_of(network_of())
    learned = spelling(PolicyController(max_depth=6, max_rounds=30, policy=policy)).run("", seed=1)
    plain = spelling(TreeOfThoughtController(max_depth=6, max_rounds=30, policy=policy)).run("", seed=1)
    assert learned.graph.to_json() == plain.graph.to_json()


def test_giving_up_ends_the_search():
    network = network_of(scale=0.0)
    network.out.bias[-1] = 100.0
    result = spelling(PolicyController(max_depth=6, policy=policy_of(network))).run("", seed=1)
    assert (result.stopped, result.solved) == ("policy", False)


def test_the_situation_counts_failures_and_ages():
    seen = []

    class Watching:
        def decide(self, situation, rng):
            seen.append(situation)
            return Decision(back=2 if len(seen) == 4 else int(situation.verdict != "valid"))

    @generator
    def one_letter(word: str) -> list[str]:
        return [word + "a"]

    @checker
    def short(word: str) -> bool:
        return len(word) < 3

    controller = TreeOfThoughtController(max_depth=6, max_rounds=6, policy=Watching())
    Program(generators=[one_letter], checkers=[short], controller=controller).run("")
    lines = [situation.line for situation in seen]
    assert lines == [("",), ("", "a"), ("", "a", "aa"), ("", "a", "aa"), ("", "a"), ("", "a", "aa")]
    assert [situation.failures[-1] for situation in seen] == [0, 0, 1, 2, 0, 3]
    assert [situation.ages for situation in seen] == [(1,), (2, 1), (3, 2, 1), (4, 3, 2), (5, 4), (6, 5, 1)]


def test_policies_of_other_weights_are_other_programs_and_those_of_the_same_are_not():
    hashes = [
        compile_program(spelling(PolicyController(max_depth=6, policy=policy_of(network_of(seed=seed))))).hash
        for seed in (1, 1, 2)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": RollbackRules()}, r"policy=RollbackRules\(.*\); allowed is load_policy\(FILE\)"),
        ({"policy": "file.safetensors"}, r"policy='file.safetensors'; allowed is load_policy"),
        ({"selection": "best"}, "selection='best'; allowed is 'greedy' or 'sample'"),
        ({"max_depth": 0}, "max_depth=0; allowed is a whole number >= 1"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        PolicyController(**{"max_depth": 3, "policy": policy_of(network_of())} | options)


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "policy.safetensors"
    about = PolicyDescription(
        max_back=3, hidden_size=4, program="sudoku", program_hash="abc", training={"seed": 7, "settings": {"gamma": 1}}
    )
    write_policy(path, network_of(), about, {"training.counts": torch.tensor([1.0])})
    return path


def test_a_policy_comes_back_from_its_file(file):
    policy = load_policy(file)
    assert (policy.max_back, policy.program, policy.program_hash) == (3, "sudoku", "abc")
    assert policy.digest == digest_of(network_of()) != digest_of(network_of(seed=1))
    assert policy.training["seed"] == 7
    assert policy.log_probabilities(SITUATION) == policy_of(network_of()).log_probabilities(SITUATION)
    assert read_policy(file)[2]["training.counts"].tolist() == [1.0]
    assert not list(file.parent.glob("*.partial"))


def test_a_file_says_what_it_is(file):
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["llmprog.policy"])
    assert about["actions"] == ["continue", "back 1", "back 2", "back 3", "stop"]
    assert about["features"] == list(feature_names(3))
    assert (about["version"], about["program"], about["program_hash"]) == (1, "sudoku", "abc")


def rewrite(path, change=None, tensor=None):
    """The file with its description or a tensor changed."""
    with safe_open(path, framework="pt") as opened:
        about = json.loads(opened.metadata()["llmprog.policy"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    for name, value in (tensor or {}).items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, metadata={"llmprog.policy": json.dumps(about | (change or {}))})


@pytest.mark.parametrize(
    ("change", "tensor", "message"),
    [
        ({"version": 2}, None, "version 2 of the format, and this llmprog knows 1"),
        ({"features": ["depth"]}, None, "trained on other features than this llmprog computes"),
        ({"actions": ["continue", "stop"]}, None, r"its actions are \['continue', 'stop'\], not"),
        ({"max_back": 0}, None, "its max_back is 0, not 1 to 64"),
        ({"max_back": True}, None, "its max_back is True"),
        ({"hidden_size": 10**9}, None, "its hidden_size is 1000000000, not 1 to 4096"),
        ({"hidden_size": 5}, None, r"its hidden.weight is torch.float64 \[4, 26\], not torch.float64 \[5, 26\]"),
        ({"training": 5}, None, "what it says of itself cannot be read"),
        (None, {"policy.out.bias": None}, "its out.bias is missing"),
        (None, {"policy.out.bias": torch.zeros(5)}, r"its out.bias is torch.float32 \[5\]"),
        (None, {"policy.out.bias": torch.full((5,), math.nan, dtype=torch.float64)}, "its out.bias is not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file, change, tensor, message):
    rewrite(file, change, tensor)
    with pytest.raises(OptionError, match=rf"policy '.*policy.safetensors': .*{message}.*train-policy"):
        load_policy(file)


def test_what_is_no_policy_is_refused(file, tmp_path):
    with pytest.raises(OptionError, match="cannot be read as safetensors"):
        load_policy(tmp_path / "nothing.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(OptionError, match="it holds no policy"):
        load_policy(other)
    other.write_bytes(file.read_bytes()[:200])
    with pytest.raises(OptionError, match="cannot be read as safetensors"):
        load_policy(other)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    about = PolicyDescription(max_back=3, hidden_size=4, program="p", program_hash="h", training={})
    with pytest.raises(OptionError, match=r"policy '.*nowhere/p' cannot be written"):
        write_policy(tmp_path / "nowhere/p", network_of(), about, {})


def test_torch_is_loaded_when_a_policy_is_and_its_absence_is_named():
    code = (
        "import sys, llmprog.search; print('torch' in sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "try: llmprog.search.load_policy('p')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "False\nMissingExtraError a learned policy needs the package 'torch', which is not installed; "
        'run: pip install "llmprog[local]"\n'
    )
