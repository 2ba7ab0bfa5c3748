"""The files that ``llmprog new`` writes: a vote over chains of thought on the embedded model, to begin with."""

from __future__ import annotations

TAKEN_NAMES = frozenset({"llmprog", "pytest", "torch", "dataclasses", "re"})
"""Modules that a starter imports: a file of that name in the same folder would hide them."""

_QUESTION = "What is (17 + 25) * 3 - 40?"

_PYTHON = '''\
"""A question is answered by the majority over several chains of thought.

    llmprog run NAME.py:NAME "What is (17 + 25) * 3 - 40?"
    llmprog show NAME.py:NAME
    python -m pytest test_NAME.py

What to change: the state (what is known so far), the prompt and its parser (one completion -> next states), the
checkers (what is refused), the controller (how the thoughts are searched). See docs/tutorial.md of llmprog.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from llmprog import Program, Verdict, checker, generator
from llmprog.arithmetic import canonical_number
from llmprog.search import SelfConsistency

PROMPT = """\\
Answer the question. Work it out step by step, one step per line, then give the result.

Question: What is 2 * (3 + 4)?
Reasoning:
3 + 4 = 7
2 * 7 = 14
Answer: 14

Question: {question}
Reasoning:
"""


@dataclass(frozen=True)
class State:
    """What is known so far; fields can be used in prompts."""

    question: str
    reasoning: str = ""
    answer: Fraction | None = None


@generator(prompt=PROMPT, max_tokens=200)
def think(state: State, completion: str) -> Iterable[State]:
    """What one completion leads to; nothing where it cannot be read."""
    found = re.findall(r"Answer:(.*)", completion)
    answer = canonical_number(found[-1]) if found else None
    if answer is not None:
        yield State(state.question, completion.strip(), answer)


@checker
def plausible(state: State) -> Verdict:
    """A rule: it costs nothing, and what it refuses has no vote."""
    ok = state.answer is not None and abs(state.answer) < 1_000_000
    return Verdict(valid=ok, reason="" if ok else f"{state.answer} is too large")


def answer_of(state: State) -> Fraction | None:
    """What is reported, and voted on."""
    return state.answer


def NAME(*, num_samples: int = 5) -> Program:
    """Answer a question by a vote over chains of thought.

    Args:
        num_samples: Chains drawn.
    """
    return Program(
        name="NAME",
        start=State,
        generators=[think],
        checkers=[plausible],
        controller=SelfConsistency(num_samples=num_samples),
        answer=answer_of,
    )
'''

_PYTHON_TESTS = """\
from __future__ import annotations

from fractions import Fraction

import pytest
from llmprog import compile_program
from NAME import NAME, State, plausible, think


def test_the_parser_reads_the_answer():
    (state,) = think(State("What is 1 + 1?"), "1 + 1 = 2\\nAnswer: 2")
    assert state.answer == Fraction(2)


def test_what_cannot_be_read_leads_nowhere():
    assert list(think(State("What is 1 + 1?"), "I do not know.")) == []


def test_the_rule_refuses_what_is_not_plausible():
    assert plausible(State("?", "", Fraction(2))).valid
    assert not plausible(State("?", "", Fraction(10**9))).valid


def test_the_program_compiles():
    assert compile_program(NAME(num_samples=3)).model_nodes == ("think",)


def test_it_answers_on_the_embedded_model():
    pytest.importorskip("torch")
    result = NAME(num_samples=7).run("QUESTION", backend="local:puzzles", seed=1)
    assert result.answer == 86
    assert result.usage.calls == 7
"""

_YAML = """\
# A question is answered by the majority over several chains of thought.
#
#     llmprog run NAME.yaml "What is (17 + 25) * 3 - 40?"
#     llmprog show NAME.yaml
#     python -m pytest test_NAME.py
#
# What to change: the state (what is known so far), the prompt and what is parsed of its completions, the checkers (what
# is refused), the controller (how the thoughts are searched). See docs/yaml.md of llmprog; `llmprog show --schema`
# prints a JSON schema by which editors complete.
name: NAME
description: Answer a question by a vote over chains of thought.
parameters:
  num_samples: {default: 5, help: Chains drawn.}

state:
  question: text # the first field takes the input
  reasoning: text
  answer: number

generators:
  - name: think
    prompt: |
      Answer the question. Work it out step by step, one step per line, then give the result.

      Question: What is 2 * (3 + 4)?
      Reasoning:
      3 + 4 = 7
      2 * 7 = 14
      Answer: 14

      Question: {question}
      Reasoning:
    sampling: {max_tokens: 200}
    parse: stated_answer
    into: {answer: value, reasoning: completion}

checkers:
  - name: plausible
    rule:
      is_number: {field: answer, lowest: -1000000, highest: 1000000}

controller:
  SelfConsistency: {num_samples: "{num_samples}"}

answer: answer
"""

_YAML_TESTS = """\
from __future__ import annotations

from pathlib import Path

import pytest
from llmprog import compile_program
from llmprog.errors import OptionError
from llmprog.spec import load_program

FILE = Path(__file__).with_name("NAME.yaml")


def test_the_parser_reads_the_answer():
    program = load_program(FILE)
    (state,) = program.generators[0](program.start("What is 1 + 1?"), "1 + 1 = 2\\nAnswer: 2")
    assert program.answer(state) == 2


def test_what_cannot_be_read_leads_nowhere():
    program = load_program(FILE)
    assert program.generators[0](program.start("What is 1 + 1?"), "I do not know.") == []


def test_the_program_compiles_with_its_parameters():
    assert compile_program(load_program(FILE, num_samples=3)).model_nodes == ("think",)
    with pytest.raises(OptionError, match="num_samples"):
        load_program(FILE, num_samples="many")


def test_it_answers_on_the_embedded_model():
    pytest.importorskip("torch")
    result = load_program(FILE, num_samples=7).run("QUESTION", backend="local:puzzles", seed=1)
    assert result.answer == 86
    assert result.usage.calls == 7
"""


def python_starter(name: str) -> dict[str, str]:
    """The files of a program in Python, by their names: the program, then its tests."""
    return {f"{name}.py": _for(name, _PYTHON), f"test_{name}.py": _for(name, _PYTHON_TESTS)}


def yaml_starter(name: str) -> dict[str, str]:
    """The files of a program in YAML, by their names: the program, then its tests."""
    return {f"{name}.yaml": _for(name, _YAML), f"test_{name}.py": _for(name, _YAML_TESTS)}


def _for(name: str, text: str) -> str:
    return text.replace("QUESTION", _QUESTION).replace("NAME", name)
