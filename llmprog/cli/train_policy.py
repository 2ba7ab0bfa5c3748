"""``llmprog train-policy``: a policy learns when a program's line of thought goes on, goes back or gives up."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmprog.cli.app import DEFAULT_BACKEND, EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_SOLVED, JsonFlag, app
from llmprog.cli.interrupts import draining
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.policy_training import TrainingProgress

_SECONDS_BETWEEN_LINES = 10.0


@app.command("train-policy")
def train_policy(
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="A name from `llmprog list`, or path/to/file.py:name.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to keep the policy, as safetensors.")],
    episodes: Annotated[int, typer.Option(metavar="N", help="Runs to learn from, those of earlier sessions included.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inputs: rows of .jsonl or .csv, also with .gz.")
    ] = None,
    input: Annotated[  # noqa: A002 - the name of the option
        str | None,
        typer.Option(
            metavar="COLUMN|TEMPLATE", help="The input of a row: a column, or a template such as '{question}'."
        ),
    ] = None,
    randomly: Annotated[
        list[str] | None,
        typer.Option("--random", metavar="KEY=VALUE", help="Without --data: set how random inputs are; repeatable."),
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="ID", help="Model to run on, such as local:puzzles.")
    ] = DEFAULT_BACKEND,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program or backend; repeatable."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step of Adam (default: 0.02).")] = None,
    gamma: Annotated[
        float | None, typer.Option(help="How much a reward counts for each round later (default: 1, fully).")
    ] = None,
    round_cost: Annotated[
        float | None, typer.Option(help="What a round costs, being solved being worth 1 (default: 0.005).")
    ] = None,
    entropy_bonus: Annotated[
        float | None, typer.Option(help="What it is worth to leave decisions open (default: 0.001).")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="value|mean", help="What returns are compared with: value or mean (default: value)."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Runs side by side, between two steps (default: 32).")] = None,
    max_back: Annotated[int | None, typer.Option(help="Steps back at most (default: 5).")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Units of the hidden layer (default: 32).")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Repeat a training; drawn at random and printed if absent.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="The most to spend: calls=200,tokens=1e6,usd=2,seconds=60,thoughts=5000."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep every run here (default: none is kept).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, also where FILE holds something else.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Learn when PROGRAM goes on, goes back or gives up. After an interruption, the same command goes on."""
    from llmprog.backends.registry import describe_options, with_options
    from llmprog.background_loop import run_sync
    from llmprog.policy_training import train_policy as train
    from llmprog.programs.catalog import find
    from llmprog.search.reinforce import ReinforceSettings

    entry = find(program)
    for_program, for_backend = assign(entry, settings or (), backend, describe_options(backend))
    chosen = {
        "learning_rate": learning_rate,
        "gamma": gamma,
        "round_cost": round_cost,
        "entropy_bonus": entropy_bonus,
        "baseline": baseline,
        "batch_size": batch_size,
        "max_back": max_back,
        "hidden_size": hidden_size,
    }
    learning: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    stop = threading.Event()
    with draining(stop.set), _live_line(enabled=not (as_json or quiet)) as show:
        progress = run_sync(
            train(
                entry.build(**for_program),
                _inputs(program, data, input, randomly or ()),
                out=out,
                num_episodes=episodes,
                backend=with_options(backend, for_backend),
                settings=ReinforceSettings(**learning),
                seed=seed,
                overwrite=overwrite,
                budget=budget,
                store=store,
                stop=stop,
                on_progress=show,
            )
        )
    _report(progress, out, as_json=as_json, quiet=quiet)
    raise typer.Exit({"interrupted": EXIT_INTERRUPTED, "budget": EXIT_BUDGET}.get(progress.stopped or "", EXIT_SOLVED))


def _inputs(
    program: str, data: Path | None, column: str | None, randomly: Sequence[str]
) -> Callable[[random.Random], Any] | Sequence[Any]:
    """The inputs of a file's rows, or a function that makes random ones."""
    from llmprog.errors import InputError, OptionError
    from llmprog.jobs.inputs import InputOf
    from llmprog.jobs.rows import read_rows
    from llmprog.programs.random_inputs import random_inputs

    if data is None:
        if column is not None:
            raise OptionError("--input has no effect without --data")
        return random_inputs(program, randomly)
    if randomly:
        raise OptionError("--random has no effect with --data")
    rows = list(read_rows(data))
    if not rows:
        raise InputError(f"the data file {str(data)!r} has no rows")
    inputs = InputOf(column)
    inputs.resolve(next((row.values for row in rows if row.fault is None), {}))
    return [inputs.of(row) for row in rows]


@contextmanager
def _live_line(*, enabled: bool) -> Iterator[Callable[[TrainingProgress], None]]:
    """Shows progress on stderr: one line on a terminal, elsewhere a line every ten seconds."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if enabled and console.is_terminal:
        with console.status("starting") as status:
            yield lambda progress: status.update(Text(_line(progress)))
        return
    shown_at = time.monotonic()

    def show(progress: TrainingProgress) -> None:
        nonlocal shown_at
        if enabled and time.monotonic() - shown_at >= _SECONDS_BETWEEN_LINES:
            shown_at = time.monotonic()
            console.print(Text(_line(progress)), soft_wrap=True)

    yield show


def _line(progress: TrainingProgress) -> str:
    usage = progress.usage
    money = "unknown cost" if usage.usd is None else f"${usage.usd:.4f}"
    return (
        f"{progress.num_episodes} of {progress.num_wanted} episodes, return {progress.mean_return:.3f}, "
        f"{progress.solve_rate:.1%} solved, {progress.mean_rounds:.2f} rounds, "
        f"{usage.calls} calls, {usage.prompt_tokens + usage.completion_tokens} tokens, {money}"
    )


def _report(progress: TrainingProgress, out: Path, *, as_json: bool, quiet: bool) -> None:
    from llmprog.terminal import plain

    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(progress) | {"out": str(out)}))
    elif not quiet:
        typer.echo(f"{_line(progress)}\npolicy: {plain(str(out))}, seed {progress.seed}")
    if progress.stopped != "finished":
        why = "the budget is spent" if progress.stopped == "budget" else "interrupted"
        sys.stderr.write(f"llmprog: {why}; what was learned is kept: the same command goes on from there\n")
