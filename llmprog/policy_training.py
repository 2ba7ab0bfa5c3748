"""Training a policy: episodes of a program, on any backend, through the ordinary runner."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llmprog.compile import compile_program
from llmprog.errors import BudgetExceededError, MissingExtraError, OptionError
from llmprog.fingerprint import describe_function, describe_value
from llmprog.joined import CUT_SHORT
from llmprog.program import Program
from llmprog.runner import StoreChoice, arun
from llmprog.running.chosen_backends import BackendChoice
from llmprog.running.result import Result
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import BudgetLedger, Ledger
from llmprog.runs.shared_ledger import open_ledger
from llmprog.search.calls import derive_seed
from llmprog.search.controller import is_whole
from llmprog.search.policy import LearnedPolicy, PolicyController
from llmprog.search.rollback import Policy
from llmprog.search.tree_of_thought import TreeOfThoughtController
from llmprog.types import Usage

try:
    from llmprog.search.policy_file import PolicyDescription, read_policy, write_policy
    from llmprog.search.policy_network import PolicyNetwork
    from llmprog.search.reinforce import Episode, Explorer, Reinforce, ReinforceSettings
except ImportError as error:
    raise MissingExtraError("training a policy", error.name or "torch", "local") from error

Inputs: TypeAlias = Callable[[random.Random], Any] | Sequence[Any]
Ending: TypeAlias = Literal["finished", "budget", "interrupted"]

_RECENT = 200  # episodes that the figures shown are of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training has come.

    Attributes:
        num_episodes: Episodes learned from, those of earlier sessions included.
        num_wanted: Episodes in all.
        seed: Repeats the training.
        mean_return: Of the last episodes, 200 at most: 1 for each that was solved, less the cost of its rounds.
        solve_rate: The share of them that was solved.
        mean_rounds: Their rounds.
        usage: What this session spent.
        stopped: ``finished``, ``budget`` or ``interrupted``; ``None`` while it goes on.
    """

    num_episodes: int
    num_wanted: int
    seed: int
    mean_return: float
    solve_rate: float
    mean_rounds: float
    usage: Usage
    stopped: Ending | None = None


async def train_policy(
    program: Program,
    inputs: Inputs,
    *,
    out: str | Path,
    num_episodes: int,
    backend: BackendChoice | None = None,
    settings: ReinforceSettings | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    budget: Budget | Ledger | str | None = None,
    store: StoreChoice | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingProgress:
    """Train a policy for a program that follows one line of thought; returns what its last episodes came to.

    The policy is in ``out`` after every batch, with all that is needed to go on: the same training, asked for again,
    does. A batch that was cut short is not learned from, so what is learned does not depend on where that was.

    Args:
        program: Its controller is a ``TreeOfThoughtController``. With a ``PolicyController``, training begins with its
            policy.
        inputs: What it is run on: inputs to choose from, or a function that makes one from a ``random.Random``.
        out: The file of the policy.
        num_episodes: Runs to learn from, those of earlier sessions included.
        backend: As for ``arun``.
        settings: How it learns.
        seed: Repeats the training; drawn at random if not given.
        overwrite: Replace a file that holds another training, or something else.
        budget: The most that this session may spend; reaching it ends the training.
        store: Where every episode is kept as a run; by default nowhere.
        stop: Once set, the training ends.
        on_progress: Called at the beginning and after every batch; it must not block.

    Raises:
        OptionError: The program has no line of thought, or ``out`` holds something else.
        BackendError: A call failed; what was learned before is in ``out``. So for all other errors of a run.
    """
    if not is_whole(num_episodes, 1):
        raise OptionError(f"num_episodes={num_episodes!r}; allowed is a whole number >= 1")
    if not callable(inputs) and not inputs:
        raise OptionError("training: there are no inputs; give at least one")
    training = _Training(program, inputs, settings or ReinforceSettings(), Path(out))
    training.begin(seed, overwrite=overwrite)
    async with _opened(budget) as ledger:
        run = functools.partial(arun, backend=backend, budget=ledger, store=store, stop=stop or threading.Event())
        ended: Ending = "finished"
        while ended == "finished" and training.num_episodes < num_episodes:
            if on_progress is not None:
                on_progress(training.progress(num_episodes))
            ended = await training.learn(min(training.settings.batch_size, num_episodes - training.num_episodes), run)
    return training.progress(num_episodes, ended)


@asynccontextmanager
async def _opened(budget: Budget | Ledger | str | None) -> AsyncIterator[Ledger | None]:
    """The ledger that all episodes spend from; closed at the end, unless it is the caller's."""
    if budget is None or isinstance(budget, Ledger):
        yield budget
        return
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    ledger = BudgetLedger(budget) if budget.file is None else await open_ledger(budget.file, budget)
    try:
        yield ledger
    finally:
        await ledger.aclose()


class _Training:
    """A training as far as it has come.

    Args:
        program: What is run.
        inputs: What it is run on.
        settings: How the policy learns.
        out: Where the policy is kept.
    """

    def __init__(self, program: Program, inputs: Inputs, settings: ReinforceSettings, out: Path) -> None:
        controller = program.controller
        if not isinstance(controller, TreeOfThoughtController):
            raise OptionError(
                f"program {program.name!r} is controlled by {getattr(controller, 'name', type(controller).__name__)}; "
                "a policy decides for a TreeOfThoughtController: choose a method that has one, such as method=tot"
            )
        self.program = program
        self.controller = controller
        self.settings = settings
        self.num_episodes = 0
        self._inputs = inputs
        self._out = out
        self._hash = compile_program(program).hash
        self._usage = Usage()
        self._recent: deque[tuple[bool, int]] = deque(maxlen=_RECENT)  # whether an episode was solved, and its rounds
        described = describe_function(inputs) if callable(inputs) else describe_value(inputs)
        self._inputs_digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def begin(self, seed: int | None, *, overwrite: bool) -> None:
        """Begin anew, or go on where the file was left.

        Raises:
            OptionError: The file holds something else, and is not to be replaced.
        """
        if self._out.exists() and not overwrite:
            self._go_on(seed)
            return
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.learner = Reinforce(self.settings, seed=self.seed, network=self._first_network())
        self._save()  # a place that cannot be written to is found now, and not after an hour

    def _first_network(self) -> PolicyNetwork | None:
        policy = self.controller.policy
        if not isinstance(policy, LearnedPolicy):
            return None
        for name, value in (("max_back", policy.max_back), ("hidden_size", policy.network.hidden.out_features)):
            if getattr(self.settings, name) != value:
                raise OptionError(
                    f"training: {name}={getattr(self.settings, name)}, but the policy that it begins with has "
                    f"{name}={value}; give that, or begin without a policy"
                )
        return policy.network

    def _go_on(self, seed: int | None) -> None:
        network, about, tensors = read_policy(self._out)
        before = dict(about.training)
        wanted = self._described() | {"program": self._hash}
        had = {name: before.get(name) for name in wanted} | {"program": about.program_hash}
        if seed is not None:
            wanted["seed"], had["seed"] = seed, before.get("seed")
        for name, value in wanted.items():
            if had[name] != value:
                raise OptionError(
                    f"{str(self._out)!r} holds a policy of another training: its {name} is {had[name]!r:.200}, not "
                    f"{value!r:.200}; ask for the same to go on with it, name another file, or have it overwritten"
                )
        self.seed = before["seed"]
        self.num_episodes = before["num_episodes"]
        self._recent.extend((bool(solved), int(rounds)) for solved, rounds in before["recent"])
        self.learner = Reinforce(self.settings, seed=self.seed, network=network)
        try:
            self.learner.load_state(tensors)
        except KeyError as error:
            raise OptionError(
                f"{str(self._out)!r} holds no training that can be gone on with: {error} is missing; name another "
                "file, or have it overwritten"
            ) from error

    async def learn(self, size: int, run: Callable[..., Awaitable[Result]]) -> Ending:
        """Run the next ``size`` episodes side by side, learn from them and keep what was learned."""
        explorers = [Explorer(self.learner.network, self.settings.max_back) for _ in range(size)]
        tasks = [
            asyncio.create_task(self._episode(self.num_episodes + i, explorer, run))
            for i, explorer in enumerate(explorers)
        ]
        try:
            results = await asyncio.gather(*tasks)
        except BudgetExceededError:
            return "budget"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            self._usage += result.usage
        if cut := next((result.stopped for result in results if result.stopped in CUT_SHORT), None):
            return "interrupted" if cut == "interrupted" else "budget"
        for result, explorer in zip(results, explorers, strict=True):
            # The round that reaches the goal is the last, and nothing is decided after it.
            last = result.stopped == "goal" and len(result.graph) > 1
            self._recent.append((result.solved, explorer.num_rounds + last))
        self.learner.update(
            [
                Episode(steps=explorer.steps, is_solved=result.solved)
                for result, explorer in zip(results, explorers, strict=True)
            ]
        )
        self.num_episodes += size
        self._save()
        return "finished"

    async def _episode(self, index: int, explorer: Explorer, run: Callable[..., Awaitable[Result]]) -> Result:
        rng = random.Random(derive_seed(self.seed, "input", index))
        given = self._inputs(rng) if callable(self._inputs) else rng.choice(self._inputs)
        program = replace(self.program, controller=_with_policy(self.controller, explorer))
        labels = {"training": str(self._out), "episode": index}
        return await run(program, given, seed=derive_seed(self.seed, "run", index), labels=labels)

    def _described(self) -> dict[str, Any]:
        """What two trainings must have in common to be the same."""
        return {"settings": asdict(self.settings), "inputs": self._inputs_digest}

    def _save(self) -> None:
        training = self._described() | {
            "seed": self.seed,
            "num_episodes": self.num_episodes,
            "recent": [[int(solved), rounds] for solved, rounds in self._recent],
        }
        about = PolicyDescription(
            max_back=self.settings.max_back,
            hidden_size=self.settings.hidden_size,
            program=self.program.name,
            program_hash=self._hash,
            training=training,
        )
        write_policy(self._out, self.learner.network, about, self.learner.state())

    def progress(self, num_wanted: int, ended: Ending | None = None) -> TrainingProgress:
        """What the last episodes came to."""
        count = max(1, len(self._recent))
        solve_rate = sum(solved for solved, _ in self._recent) / count
        mean_rounds = sum(rounds for _, rounds in self._recent) / count
        return TrainingProgress(
            num_episodes=self.num_episodes,
            num_wanted=num_wanted,
            seed=self.seed,
            mean_return=solve_rate - self.settings.round_cost * mean_rounds,
            solve_rate=solve_rate,
            mean_rounds=mean_rounds,
            usage=self._usage,
            stopped=ended,
        )


def _with_policy(controller: TreeOfThoughtController, policy: Policy) -> TreeOfThoughtController:
    """``controller`` with another policy, of any kind."""
    if not isinstance(controller, PolicyController):
        return replace(controller, policy=policy)
    shared = {f.name: getattr(controller, f.name) for f in fields(TreeOfThoughtController) if f.init}
    return TreeOfThoughtController(**shared | {"policy": policy})
