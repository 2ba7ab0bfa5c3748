"""Whoever asks for ``progress=True`` sees how far a run is, wherever it is run; whoever does not sees nothing."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading

import pytest

import llmprog
from llmprog import Program, amap, arun, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.errors import InputError, NodeError, OptionError
from llmprog.events import RunFinished
from llmprog.search import BeamSearch, SelfConsistency


@generator
def grow(state: str) -> list[str]:
    if state == "bad":
        raise ValueError("no more")
    return [state + letter for letter in "ab"]


def refused(given):
    if not given:
        raise ValueError("it is empty")
    return given


program = Program(
    name="growing", generators=[grow], controller=BeamSearch(beam_width=2, max_depth=2), start=refused
)  # fmt: skip
say = generator(prompt="{state}", name="say")(lambda state, completion: [completion])
vote = Program(name="voting", generators=[say], controller=SelfConsistency(num_samples=4))
model = ScriptedBackend(lambda prompt, sample: "ab"[sample % 2])

ENDED = "growing: ended: max_depth; 7 thoughts, 6 checked, 0 calls, 0 tokens generated, "


def untimed(text):
    """What was said, each line without the seconds at its end."""
    return re.sub(r"\d+ s\n", "", text)


def in_thread(work):
    """What ``work`` came to in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


async def inside_a_loop():
    return run(program, "x", seed=1, progress=True)


WAYS = {
    "run": lambda: run(program, "x", seed=1, progress=True),
    "program.run": lambda: program.run("x", seed=1, progress=True),
    "arun": lambda: asyncio.run(arun(program, "x", seed=1, progress=True)),
    "program.arun": lambda: asyncio.run(program.arun("x", seed=1, progress=True)),
    "run inside a loop": lambda: asyncio.run(inside_a_loop()),
    "run in a thread": lambda: in_thread(lambda: run(program, "x", seed=1, progress=True)),
    "arun in a thread": lambda: in_thread(lambda: asyncio.run(arun(program, "x", seed=1, progress=True))),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_where_there_is_no_terminal_a_line_says_how_the_run_ended(way, capsys):
    assert way().answer == "xaa"
    out, err = capsys.readouterr()
    assert (out, untimed(err)) == ("", ENDED)


def test_nothing_is_shown_by_default(capsys):
    run(program, "x", seed=1)
    asyncio.run(arun(program, "x", seed=1))
    llmprog.map(vote, ["q"], backend=model, seed=1)
    assert capsys.readouterr() == ("", "")


def test_what_is_shown_is_loaded_when_it_is():
    code = """
import sys
from llmprog import map
from llmprog.backends import ScriptedBackend
from llmprog.programs.self_consistency import self_consistency

program, model = self_consistency(num_samples=1), ScriptedBackend(lambda prompt, sample: "Answer: 1")
program.run("q", backend=model)
map(program, ["q"], backend=model)
print("llmprog.terminal" in sys.modules)
map(program, ["q"], backend=model, progress=True)
print("llmprog.terminal" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_whoever_is_told_of_events_is_told_in_any_case(capsys):
    told = []
    run(program, "x", seed=1, progress=True, on_event=told.append)
    assert isinstance(told[-1], RunFinished)
    asyncio.run(arun(program, "x", seed=1, progress=True, on_event=told.append))
    assert sum(isinstance(event, RunFinished) for event in told) == 2
    assert untimed(capsys.readouterr().err) == ENDED * 2


def test_a_run_that_an_error_ended_says_so(capsys):
    with pytest.raises(NodeError):
        run(program, "bad", seed=1, progress=True)
    assert capsys.readouterr().err.startswith("growing: ended early; 1 thoughts, ")


def test_what_is_refused_before_it_begins_is_told_by_its_error_alone(capsys):
    with pytest.raises(InputError):
        run(program, "", progress=True)
    with pytest.raises(OptionError, match="seed="):
        run(program, "x", seed="one", progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [None, 1, "yes"])
def test_the_choice_is_yes_or_no(progress):
    wanted = f"progress={progress!r}; allowed are True"
    with pytest.raises(OptionError, match=wanted):
        run(program, "x", progress=progress)
    with pytest.raises(OptionError, match=wanted):
        asyncio.run(arun(program, "x", progress=progress))
    with pytest.raises(OptionError, match=wanted):
        llmprog.map(vote, ["q"], progress=progress)
    with pytest.raises(OptionError, match=wanted):
        amap(vote, ["q"], progress=progress)


def test_the_parts_of_a_joined_program_are_shown_as_one_run(capsys):
    Sequence(program, program, name="both").run("x", seed=1, progress=True)
    assert untimed(capsys.readouterr().err) == (
        "both: ended: max_depth; 14 thoughts, 12 checked, 0 calls, 0 tokens generated, 2 searches, 0 under way, "
    )


def test_runs_side_by_side_have_a_line_each(capsys):
    async def both():
        await asyncio.gather(*(arun(program, given, seed=1, progress=True) for given in ("x", "y")))

    asyncio.run(both())
    assert untimed(capsys.readouterr().err) == ENDED * 2


async def collected(**options):
    return [result async for result in amap(vote, ["q", "r"], backend=model, seed=1, progress=True, **options)]


@pytest.mark.parametrize(
    "work",
    [lambda: llmprog.map(vote, ["q", "r"], backend=model, seed=1, progress=True), lambda: asyncio.run(collected())],
)
def test_a_job_says_how_it_stands_at_its_end(work, capsys):
    assert len(work()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("voting: 2 of 2 rows, ")
    assert err.endswith(", 0 failed; 0 of 2 votes decided early, 4 of 4 samples each\n")
    assert err.count("\n") == 1


def test_a_job_that_never_began_says_nothing(capsys):
    with pytest.raises(OptionError):
        llmprog.map(vote, [{"a": 1, "b": 2}], backend=model, progress=True)
    assert capsys.readouterr() == ("", "")
