"""Which generators an action uses, how often each is asked, and what counts as states."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from llmprog import Program, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import DeclarationError, NodeError
from llmprog.search import Controller, Expand, Hint, Merge
from llmprog.search.generating import as_states


@dataclass(kw_only=True)
class Script(Controller):
    """Does one action after the other."""

    aggregates = True
    actions: list
    num_done: int = field(default=0, init=False)

    def ask(self, graph, capacity):
        self.num_done += 1
        return self.actions[self.num_done - 1 : self.num_done]

    def tell(self, event):
        pass


ask = generator(prompt="ask {state}{hint}", name="ask", n=2)(lambda state, completion: [completion])
tell = generator(prompt="tell {state}", name="tell")(lambda state, completion: [completion])
join = generator(prompt="join {num_candidates}", name="join", aggregates=True)(lambda states, completion: [completion])
mix = generator(prompt="mix {num_candidates}", name="mix", aggregates=True)(lambda states, completion: [completion])


def run(*actions):
    program = Program(generators=[ask, tell, join, mix], controller=Script(actions=list(actions)))
    backend = ScriptedBackend(lambda text, sample: f"{text[0]}{sample}")
    graph = program.run("x", backend=backend).graph
    return [(r.prompt.text, r.first_sample, r.num_samples) for r in backend.requests], [t.state for t in graph]


def test_an_action_names_its_generator_and_the_number_of_samples():
    asked, states = run(Expand(0, generator="tell"), Merge((0, 1), generator="mix", num_samples=3))
    assert asked == [("tell x", 0, 1), ("mix 2", 0, 3)]
    assert states == ["x", "t0", "m0", "m1", "m2"]
    asked, _ = run(Expand(0), Merge((0,)))
    assert [text for text, _, _ in asked] == ["ask x", "tell x", "join 1", "mix 1"]


def test_another_hint_is_another_question_with_samples_of_its_own():
    asked, _ = run(
        Expand(0, generator="ask", hint=Hint(hint="!")),
        Expand(0, generator="ask", hint=Hint(hint="!")),
        Expand(0, generator="ask"),
        Expand(0, generator="ask", hint=Hint(hint="?")),
    )
    assert asked == [("ask x!", 0, 2), ("ask x!", 2, 2), ("ask x", 0, 2), ("ask x?", 0, 2)]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Expand(0, generator="join"), "has no generator 'join' to use here; there are: ask, tell"),
        (Merge((0,), generator="ask"), "has no generator 'ask' to use here; there are: join, mix"),
    ],
)
def test_a_generator_that_cannot_be_used_is_refused(action, message):
    with pytest.raises(DeclarationError, match=message):
        run(action)


def test_what_a_generator_may_return():
    assert as_states(ask, None) == []
    assert as_states(ask, "one") == ["one"]
    assert as_states(ask, (n for n in (1, 2))) == [1, 2]
    assert as_states(ask, Hint(hint="a record")) == [Hint(hint="a record")]
    with pytest.raises(NodeError, match=r"ask.*returned 3; allowed are an iterable of states, one state or None"):
        as_states(ask, 3)
