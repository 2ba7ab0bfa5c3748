"""Several debaters answer a question, read each other's replies, answer again; then a vote or a judge decides.

Du et al. 2023 (arXiv 2305.14325): every debater updates its answer in the light of the others', and the majority of the
last round answers. Irving et al. 2018 (arXiv 1805.00899): debaters argue before a judge, who decides. Unlike there,
debaters are free to change sides, and the judge is a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmprog.errors import OptionError
from llmprog.nodes import Generator, generator
from llmprog.program import Program
from llmprog.programs.answers import AnswerForm
from llmprog.programs.catalog import one_of
from llmprog.programs.chains import Asking, parse_question
from llmprog.search import Aggregate, Generate, GraphOfThoughts, OperationGraph
from llmprog.search.operations import Operation
from llmprog.search.voting import Tally
from llmprog.types import Completion, Message, Prompt

Decision = Literal["vote", "judge"]

_MOST_DEBATERS = 20
_OTHERS = """These are the replies of the other debaters:

{others}

Read them critically: they may be right or wrong, and so may you. Where one of them is better than yours, say what
convinced you; where you are right, say what is wrong with theirs. Then give your own reply to the question again, in
the same form as before.
"""
_JUDGE = """Several debaters have answered a question, and this is what they say in the end.

Question: {question}

{statements}

You are the judge. Weigh their arguments, not their number. Then answer the question: end your reply with {ending}
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a debater, or the judge, says.

    Attributes:
        question: What is debated.
        debater: Who, from 1; 0 for the question itself and for the decision.
        round: In which round, from 1.
        text: What was said.
        answer: The answer that it states; ``None`` if it states none.
        before: What the same debater said in earlier rounds, each with what the others had said.
    """

    question: str
    debater: int = 0
    round: int = 0
    text: str = ""
    answer: str | None = None
    before: tuple[Message, ...] = ()

    def __str__(self) -> str:
        if not self.text:
            return f"debater {self.debater}" if self.debater else self.question
        return f"debater {self.debater}, round {self.round}: {self.text}" if self.debater else self.text


def debate(
    *,
    num_debaters: int = 3,
    num_rounds: int = 2,
    decide: Decision = "vote",
    temperature: float = 0.7,
    max_tokens: int = 1024,
    answer: AnswerForm = "text",
    pattern: str | None = None,
    path: str | None = None,
    examples: str | None = None,
    num_examples: int | None = None,
    system: str | None = None,
) -> Program:
    """Answer a question by a debate of several debaters over several rounds, and a vote or a judge (Du et al. 2023).

    The nodes ``debater_1``, ``debater_2`` … and ``judge`` can have backends of their own.

    Args:
        num_debaters: Debaters, 2 to 20.
        num_rounds: Rounds; in the first one nobody knows what the others say.
        decide: ``vote``: the answer of most debaters in the last round, the first seen among equals; ``judge``: a model
            reads what they say in the last round, and answers.
        temperature: Of everything that is drawn.
        max_tokens: Longest reply of a debater, or decision of the judge, in the model's tokens.
        answer: What is read: ``text`` (what a reply states), ``number`` or ``choice`` (a letter) in it, ``regex`` (the
            last match of ``pattern``) or ``json`` (the value at ``path``).
        pattern: A regular expression; its first group, if it has one, is the answer (regex).
        path: Where the answer is in the JSON of a reply, such as ``result.value`` (json; default answer).
        examples: A file of worked examples (.jsonl, .csv, .yaml) with question, reasoning and answer, shown first.
        num_examples: How many of them; all by default.
        system: A system prompt for the debaters; none by default.
    """
    one_of("decide", decide, Decision)
    if not 2 <= num_debaters <= _MOST_DEBATERS or num_rounds < 1:
        raise OptionError(
            f"num_debaters={num_debaters}, num_rounds={num_rounds}; allowed are 2 to {_MOST_DEBATERS} debaters and at "
            "least one round"
        )
    asking = Asking.of(
        "chain", answer=answer, pattern=pattern, path=path, examples=examples, num_examples=num_examples, system=system
    )
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    nodes = [_seats(num_debaters)]
    nodes += [_debater(number, asking, sampling) for number in range(1, num_debaters + 1)]
    nodes.append(majority if decide == "vote" else _judge(asking, sampling))
    return Program(
        name="debate",
        start=_first_statement,
        generators=nodes,
        controller=GraphOfThoughts(operations=_plan(num_debaters, num_rounds, nodes[-1].name)),
        answer=_answer,
        explain=_explain,
    )


def _plan(num_debaters: int, num_rounds: int, decider: str) -> OperationGraph:
    """Everybody speaks in every round, to all that was said in the round before."""
    plan: dict[str, Operation] = {"seats": Generate(generator="seats")}
    last: tuple[str, ...] = ("seats",)
    for round_number in range(1, num_rounds + 1):
        names = tuple(f"debater {number} in round {round_number}" for number in range(1, num_debaters + 1))
        for number, name in enumerate(names, 1):
            plan[name] = Aggregate(generator=f"debater_{number}", after=last)
        last = names
    return OperationGraph(plan | {"decision": Aggregate(generator=decider, after=last)})


def _seats(num_debaters: int) -> Generator:
    """Everybody's place, before anything is said."""

    @generator(name="seats")
    def seats(state: Statement) -> Sequence[Statement]:
        return [replace(state, debater=number) for number in range(1, num_debaters + 1)]

    return seats


def _debater(number: int, asking: Asking, sampling: dict[str, Any]) -> Generator:
    """What a debater says: first without the others, then to what all said in the round before."""

    def turns(states: Sequence[Statement]) -> tuple[Message, ...]:
        own = [state for state in states if state.debater == number]
        said = "\n\n".join(f"Debater {state.debater}:\n{state.text}" for state in states if state.debater != number)
        before = (*own[0].before, Message("assistant", own[0].text)) if own else ()
        return (*before, Message("user", _OTHERS.format(others=said))) if states[0].round else ()

    def ask(states: Sequence[Statement]) -> Prompt:
        asked = asking.prompt(states[0].question)
        return replace(asked, messages=(*asked.messages, *turns(states)))

    @generator(prompt=ask, name=f"debater_{number}", aggregates=True, **sampling)
    def speak(states: Sequence[Statement], completion: Completion) -> Statement:
        return _said(states[0], number, asking, completion, turns(states))

    return speak


def _said(to: Statement, number: int, asking: Asking, completion: Completion, before: tuple[Message, ...]) -> Statement:
    """What a debater says after a statement of somebody."""
    reply, _, answer = asking.parts_of(completion)
    return Statement(to.question, number, to.round + 1, reply, answer, before)


def _judge(asking: Asking, sampling: dict[str, Any]) -> Generator:
    def ask(states: Sequence[Statement]) -> str:
        said = "\n\n".join(f"Debater {state.debater}:\n{state.text}" for state in states)
        return _JUDGE.format(question=states[0].question, statements=said, ending=asking.ending)

    @generator(prompt=ask, name="judge", aggregates=True, **sampling)
    def decide(states: Sequence[Statement], completion: Completion) -> Statement:
        return _said(states[0], 0, asking, completion, ())

    return decide


@generator(aggregates=True)
def majority(states: Sequence[Statement]) -> Statement:
    """The answer that most debaters give, in canonical form; of equals the one first given."""
    tally = Tally()
    first: dict[str, str] = {}
    for state in states:
        form = tally.add(state.answer, None)
        if form is not None and state.answer is not None:
            first.setdefault(form, state.answer)
    ranking = tally.ranking()
    votes = ", ".join(f"{first[form]}: {votes:g}" for form, votes in ranking)
    winner = first[ranking[0][0]] if ranking else None
    return Statement(states[0].question, 0, states[0].round + 1, f"votes: {votes or 'none'}", winner)


def _first_statement(text: str) -> Statement:
    return Statement(parse_question(text, "debate").question)


def _answer(state: Statement) -> str | None:
    return state.answer


def _explain(state: Statement) -> str:
    return (
        "no decision: no debater, or not the judge, ended with a line 'Answer: …' within max_tokens; what was said is "
        "in the graph; use a larger model"
    )
