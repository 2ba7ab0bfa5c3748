"""Training: a policy learns in a world whose best policy is known; whatever ends a training, it goes on exactly."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace

import pytest
import torch

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, InputError, OptionError
from llmprog.policy_training import train_policy
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import BudgetLedger
from llmprog.runs.store import open_store
from llmprog.search import BeamSearch, PolicyController, RollbackRules, TreeOfThoughtController, load_policy
from llmprog.search.policy_file import read_policy
from llmprog.search.reinforce import ReinforceSettings

# Three ways lead from the start. Two are traps: they go on like the third for two steps, and then everything is
# refused. Of ways not yet tried one is taken, so the best policy is to go on while there is a way on, and to go back to
# the start, four steps, at the first refusal. It needs 4 rounds, 8 or 12, by the place of the right way.
RIGHT, WRONG = "right", "wrong"


@generator
def walk(place: str) -> list[str]:
    order, _, way = place.partition(":")
    if not way:
        return [f"{order}:{RIGHT if number == order else WRONG}{number}" for number in "123"]
    return [place + "."]


@checker
def passable(place: str) -> bool:
    return not (WRONG in place and place.endswith("..."))


def maze(controller=None):
    return Program(
        name="maze",
        start=lambda order: f"{order}:",
        generators=[walk],
        checkers=[passable],
        controller=controller or TreeOfThoughtController(max_depth=6, max_rounds=40),
        goal=lambda place: place.endswith("..."),
    )


MAZES = ["1", "2", "3"]
QUICK = ReinforceSettings(learning_rate=0.03, batch_size=16, hidden_size=8)


def train(out, num_episodes, *, program=None, inputs=MAZES, settings=QUICK, seed=1, **options):
    work = train_policy(
        program or maze(), inputs, out=out, num_episodes=num_episodes, settings=settings, seed=seed, **options
    )
    return asyncio.run(work)


def contents(path):
    network, about, tensors = read_policy(path)
    state = {**network.state_dict(), **tensors}
    return about, {name: tensor.tolist() for name, tensor in state.items()}


class Counting:
    """Keeps what a policy decided, and on what."""

    def __init__(self, policy):
        self.policy = policy
        self.decisions = []

    def decide(self, situation, rng):
        self.decisions.append((situation, self.policy.decide(situation, rng)))
        return self.decisions[-1][1]


class Greedy:
    """A learned policy that decides what is likeliest."""

    def __init__(self, policy):
        self.policy = policy

    def decide(self, situation, rng):
        return self.policy.decide(situation, rng, selection="greedy")


def rounds_with(policy):
    """Rounds that each maze takes, and all decisions."""
    found, decisions = [], []
    for order in MAZES:
        counting = Counting(policy)
        result = maze(TreeOfThoughtController(max_depth=6, max_rounds=40, policy=counting)).run(order, seed=0)
        assert result.solved
        found.append(len(counting.decisions) + 1)
        decisions += counting.decisions
    return found, decisions


# ---------------------------------------------------------------------------------------------------- learning


def test_the_best_policy_of_a_known_world_is_learned(tmp_path):
    out = tmp_path / "maze.safetensors"
    report = train(out, 480)
    rounds, decisions = rounds_with(Greedy(load_policy(out)))
    assert rounds == [4, 8, 12]
    for situation, decision in decisions:
        assert decision.back == (0 if situation.verdict == "valid" else 4)
    by_rules, _ = rounds_with(RollbackRules())
    assert sum(rounds) < sum(by_rules)
    assert report.solve_rate == 1
    assert report.mean_rounds < 10
    assert report.mean_return == pytest.approx(1 - 0.005 * report.mean_rounds)


def test_episodes_are_reported_as_they_were(tmp_path):
    """Of a policy that goes on whenever it can, and else gives up: the right way first is solved, others are not."""
    out = tmp_path / "maze.safetensors"
    train(out, 16)
    policy = load_policy(out)
    with torch.no_grad():
        policy.network.out.weight.zero_()
        policy.network.out.bias.copy_(torch.tensor([90.0, 0, 0, 0, 0, 0, 50.0]))
    program = maze(PolicyController(max_depth=6, max_rounds=40, policy=policy))
    report = train(tmp_path / "again", 16, program=program, inputs=["1", "1", "2", "2"])
    share = report.solve_rate
    assert 0 < share < 1
    assert report.mean_rounds == 4  # solved in the fourth round, or given up after it
    assert report.mean_return == pytest.approx(share - 0.02)


def test_training_begins_with_the_policy_that_the_program_has(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, 64)
    program = maze(PolicyController(max_depth=6, max_rounds=40, policy=load_policy(first)))
    stopped = threading.Event()
    stopped.set()
    train(second, 64, program=program, stop=stopped)
    assert load_policy(second).digest == load_policy(first).digest
    with pytest.raises(OptionError, match="hidden_size=16, but the policy that it begins with has hidden_size=8"):
        train(tmp_path / "third", 64, program=program, settings=replace(QUICK, hidden_size=16))


# ---------------------------------------------------------------------------------------------------- going on


def test_the_same_seed_gives_the_same_policy_and_another_another(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, 48, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")[1] != contents(tmp_path / "c")[1]


@pytest.mark.parametrize("baseline", ["value", "mean"])
def test_a_training_goes_on_exactly_where_it_was(tmp_path, baseline):
    settings = replace(QUICK, baseline=baseline)
    train(tmp_path / "at once", 64, settings=settings)
    for wanted in (16, 48, 64):
        report = train(tmp_path / "bit by bit", wanted, settings=settings)
        assert (report.num_episodes, report.stopped) == (wanted, "finished")
    assert contents(tmp_path / "bit by bit") == contents(tmp_path / "at once")


def scripted_maze():
    """The maze, walked by a model, so that calls can be counted."""

    @generator(prompt="{state}")
    def ask(state: str, completion: str) -> list[str]:
        return walk.function(state)

    return replace(maze(), generators=[ask])


def say_nothing(prompt, sample):
    return ""


def test_a_budget_ends_a_training_and_the_policy_is_that_of_whole_batches(tmp_path):
    program, backend = scripted_maze(), ScriptedBackend(say_nothing)
    train(tmp_path / "whole", 48, program=program, backend=backend)
    cut = tmp_path / "cut"
    spent = []
    for budget in ("calls=350", Budget(calls=350), BudgetLedger(Budget(calls=350)), None):
        report = train(cut, 48, program=program, backend=backend, budget=budget)
        spent.append((report.stopped, report.usage.calls))
    assert spent[0][0] == "budget"
    assert all(calls <= 350 for stopped, calls in spent if stopped == "budget")
    assert spent[-1][0] == "finished"
    assert contents(cut) == contents(tmp_path / "whole")


def test_a_shared_ledger_is_spent_from(tmp_path):
    program, backend = scripted_maze(), ScriptedBackend(say_nothing)
    ledger = tmp_path / "ledger.db"
    for name in ("a", "b"):
        report = train(tmp_path / name, 480, program=program, backend=backend, budget=f"calls=60,file={ledger}")
        assert report.stopped == "budget"
    assert report.usage.calls == 0


def test_a_training_that_is_stopped_keeps_what_it_learned(tmp_path):
    stop = threading.Event()
    seen = []

    def watch(progress):
        seen.append(progress)
        if progress.num_episodes == 32:
            stop.set()

    out = tmp_path / "maze.safetensors"
    report = train(out, 96, stop=stop, on_progress=watch)
    assert [progress.num_episodes for progress in seen] == [0, 16, 32]
    assert [progress.stopped for progress in seen] == [None] * 3
    assert (report.stopped, report.num_episodes) == ("interrupted", 32)
    train(out, 96)
    train(tmp_path / "at once", 96)
    assert contents(out) == contents(tmp_path / "at once")


def test_an_error_of_the_endpoint_ends_a_training_and_loses_nothing(tmp_path):
    program = scripted_maze()
    num_calls = 0

    def fail_late(prompt, sample):
        nonlocal num_calls
        num_calls += 1
        if num_calls > 400:
            raise BackendError("the endpoint is gone", backend="scripted", retryable=False)
        return ""

    out = tmp_path / "maze"
    with pytest.raises(BackendError, match="the endpoint is gone"):
        train(out, 96, program=program, backend=ScriptedBackend(fail_late))
    assert 0 < contents(out)[0].training["num_episodes"] < 96
    train(out, 96, program=program, backend=ScriptedBackend(say_nothing))
    train(tmp_path / "at once", 96, program=program, backend=ScriptedBackend(say_nothing))
    assert contents(out) == contents(tmp_path / "at once")


def test_without_a_seed_one_is_drawn_and_kept(tmp_path):
    report = train(tmp_path / "maze", 16, seed=None)
    assert train(tmp_path / "maze", 32, seed=None).seed == report.seed


# ---------------------------------------------------------------------------------------------------- inputs, runs


def test_inputs_can_be_made_from_random_numbers(tmp_path):
    made = []

    def inputs(rng: random.Random) -> str:
        made.append(rng.choice(MAZES))
        return made[-1]

    train(tmp_path / "maze", 32, inputs=inputs)
    assert len(made) == 32
    assert set(made) == set(MAZES)


def test_every_episode_is_kept_as_a_run_where_a_store_is_given(tmp_path):
    store = open_store(tmp_path / "runs")
    train(tmp_path / "maze", 16, store=store)
    runs = [listed.info for listed in store.list()]
    assert len(runs) == 16
    assert sorted(info.config["labels"]["episode"] for info in runs) == list(range(16))
    store.close()


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_file_of_another_training_is_left_alone(tmp_path):
    out = tmp_path / "maze"
    train(out, 16)
    before = out.read_bytes()
    for options, message in (
        ({"seed": 2}, "its seed is 1, not 2"),
        ({"inputs": ["1"]}, "its inputs is '.*', not"),
        ({"settings": replace(QUICK, gamma=0.5)}, "its settings is .*'gamma': 0.5"),
        ({"program": maze(TreeOfThoughtController(max_depth=7))}, "its program is '.*', not '.*'"),
    ):
        with pytest.raises(OptionError, match=f"holds a policy of another training: {message}"):
            train(out, 32, **options)
    assert out.read_bytes() == before
    train(out, 16, seed=2, overwrite=True)
    assert contents(out)[0].training["seed"] == 2
    other = tmp_path / "other"
    other.write_text("mine")
    with pytest.raises(OptionError, match="cannot be read as safetensors"):
        train(other, 16)
    assert other.read_text() == "mine"


def test_a_policy_without_its_training_cannot_be_gone_on_with(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    out = tmp_path / "maze"
    train(out, 16)
    with safe_open(out, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if name.startswith("policy.")}  # noqa: SIM118
        about = file.metadata()
    save_file(kept, out, metadata=about)
    with pytest.raises(OptionError, match=r"no training that can be gone on with: 'training\.counts' is missing"):
        train(out, 32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_episodes": 0}, OptionError, "num_episodes=0; allowed is a whole number >= 1"),
        ({"inputs": []}, OptionError, "there are no inputs"),
        ({"inputs": [object()]}, InputError, "cannot use the input"),
        (
            {"program": maze(BeamSearch(beam_width=2, max_depth=3))},
            OptionError,
            "program 'maze' is controlled by BeamSearch; a policy decides for a TreeOfThoughtController",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(tmp_path, options, error, message):
    def start(order):
        if not isinstance(order, str):
            raise InputError(f"cannot use the input {order!r}")
        return f"{order}:"

    program = options.pop("program", None) or replace(maze(), start=start)
    with pytest.raises(error, match=message):
        train(tmp_path / "maze", **{"num_episodes": 16, "program": program} | options)
