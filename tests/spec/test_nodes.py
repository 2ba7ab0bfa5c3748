"""What the parts of a program file do: parsers, prompts, rules, judgements, tools, on replies that are given."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from forms import program, search

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError
from llmprog.templates import Hint
from llmprog.types import Blank, Choices, JsonSchema, Message, Prompt, Regex, Template


def answers(parse: Any, reply: str, *, into: Any = "answer", kind: str = "text") -> list[Any]:
    """What a generator makes of a reply."""
    form = search(
        state={"question": "text", "answer": kind, "more": "list of text"},
        generators=[{"name": "g", "prompt": "{question}", "parse": parse, "into": into}],
    )
    built = program(form)
    return [state.answer for state in built.generators[0].function(built.start("q"), reply)]


@pytest.mark.parametrize(
    ("parse", "reply", "found"),
    [
        ("text", "  a b \n", ["a b"]),
        ({"text": {"strip": False}}, " a ", [" a "]),
        ("stated_answer", "First.\n**Answer:** Paris.", ["Paris"]),
        ("stated_answer", "no idea", []),
        ("last_number", "3 apples and $1,234.50 in all", ["2469/2"]),
        ("last_number", "none", []),
        ("last_line", "a\nb\n\n", ["b"]),
        ("lines", "Here:\n1. one\n- two\n\n* three", ["Here:", "one", "two", "three"]),
        ({"lines": {"max_lines": 1}}, "one\ntwo", ["one"]),
        ({"regex": {"pattern": "x=(\\d+)"}}, "x=1, x=2", ["2"]),
        ({"regex": {"pattern": "x=(\\d+)", "which": "all"}}, "x=1, x=2", ["1", "2"]),
        ({"regex": {"pattern": "x=(\\d+)", "which": "first"}}, "x=1, x=2", ["1"]),
        ({"regex": {"pattern": "X=\\d", "ignore_case": True}}, "x=1", ["x=1"]),
        ({"json_path": {"path": "$.items[0].name"}}, 'Sure: {"items": [{"name": "Ada"}]} ok', ["Ada"]),
        ({"json_path": {"path": "[*].n", "which": "all"}}, '```json\n[{"n": 1}, {"n": 2}, {}]\n```', ["1", "2"]),
        ({"json_path": {"path": "$"}}, '{"a": [1, true]}', ['{"a": [1, true]}']),
        ("json_path", "{not json", []),
        ({"choices": {"options": ["sure", "not sure"]}}, "I am Not sure.", ["not sure"]),
        ({"choices": {"options": ["A", "B"], "ignore_case": False}}, "a or b: A", ["A"]),
        ("rating", "I give it\n70", []),
        ("rating", "Score: 7", ["7.0"]),
        ("expression", "So\nAnswer: (1 + 2) / 4 = 0.75", ["3/4"]),
        ("expression", "none", []),
    ],
)
def test_parsers_find_what_they_are_named_for(parse: Any, reply: str, found: list[str]) -> None:
    assert answers(parse, reply) == found


def test_what_is_found_goes_into_fields_by_their_types() -> None:
    assert answers("last_number", "it is 7/2", kind="number") == [Fraction(7, 2)]
    assert answers("last_number", "it is 7/2", kind="integer") == []
    assert answers("last_number", "it is 7", kind="integer") == [7]
    assert answers("last_line", "YES", kind="boolean") == [True]
    assert answers("last_line", "maybe", kind="boolean") == []
    assert answers("text", "a\n\nb", kind="list of text") == [("a", "b")]
    assert answers("text", "4, 9 and 1/2", kind="list of number") == [(4, 9, Fraction(1, 2))]
    assert answers({"regex": {"pattern": "(?P<a>\\d)(?P<b>\\d)?"}}, "12", into={"answer": "{b}-{a} of {question}"}) == [
        "2-1 of q"
    ]
    assert answers({"regex": {"pattern": "(?P<a>\\d)(?P<b>x)?"}}, "1", into={"answer": "b"}) == []
    assert answers({"regex": {"pattern": "(?P<answer>\\d)"}}, "1", into={}) == ["1"]
    assert answers("text", "r", into={"answer": "value", "more": {"append": "completion"}}) == ["r"]


def test_the_beginning_and_the_rest_of_a_state_come_from_the_input() -> None:
    form = search(
        state={"a": "integer", "b": "list of number", "c": {"type": "number", "default": 0.5}, "d": "list of text"},
        input=["a", "b"],
        generators=[{"name": "g", "prompt": "{a} {b} {c}", "parse": "text", "into": {"d": {"append": "value"}}}],
        answer=None,
    )
    start = program(form).start
    assert start is not None
    state = start({"a": "3", "b": [1, 2.5]})
    assert (state.a, state.b, state.c, state.d) == (3, (1, Fraction(5, 2)), Fraction(1, 2), ())
    assert start('{"a": 3, "b": "1 and 2.5"}') == state
    for given, said in {
        "x": "give a JSON object",
        '{"a": 1}': "has no b",
        '{"a": 1, "b": "2", "e": 3}': "has e, which the program does not take",
        '{"a": "x", "b": "1"}': "a: 'x' is no number; the program takes integer",
    }.items():
        with pytest.raises(InputError) as caught:
            start(given)
        assert said in str(caught.value)
    with pytest.raises(InputError, match="question: 0 characters"):
        program(search()).start("  ")


def test_a_prompt_of_messages_has_examples_a_prefix_and_gaps() -> None:
    prompt = {
        "system": "Be brief, {question}.",
        "examples": [{"user": "1+1", "assistant": "2 {{two}}"}],
        "user": "{question}: {hint}",
        "prefix": "Answer:",
    }
    form = search(
        generators=[{"name": "g", "prompt": prompt, "parse": "text", "into": "answer"}],
        controller={"TreeOfThoughtController": {"max_depth": 2, "max_rounds": 2}},
        checkers=[{"name": "never", "rule": {"equals": {"field": "answer", "to": "right"}}}],
    )
    backend = ScriptedBackend(lambda prompt, sample: "wrong")
    program(form).run("q", backend=backend)
    asked: list[Any] = [request.prompt for request in backend.requests]
    messages = [Message("system", "Be brief, q."), Message("user", "1+1"), Message("assistant", "2 {two}")]
    assert asked[0] == Prompt((*messages, Message("user", "q: ")), "Answer:")
    assert "wrong: refused, answer is 'wrong', not 'right'" in asked[1].messages[-1].content
    gaps = prompt | {"fill": ["Answer: ", {"blank": 4}, " for {question}"]}
    built = program(search(generators=[{"name": "g", "prompt": gaps, "parse": "text", "into": "answer"}]))
    made = built.generators[0].prompt(built.start("q"), Hint(hint="think"))
    assert isinstance(made, Template)
    assert made.parts == ("Answer: ", Blank(4), " for q")
    assert made.prompt.messages[-1].content == "q: think"


def test_sampling_reaches_the_node() -> None:
    sampling = {
        "temperature": 0,
        "max_tokens": 9,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "stop": "\n",
        "logprobs": True,
    }
    for guided, value in [
        ({"choices": ["a", "b"]}, Choices(("a", "b"))),
        ({"regex": "a+"}, Regex("a+")),
        ({"json": {"type": "object"}}, JsonSchema('{"type": "object"}')),
    ]:
        node = {"name": "g", "prompt": "x", "num_samples": 2, "sampling": sampling | {"guided": guided}}
        (made,) = program(search(generators=[node | {"parse": "text", "into": "answer"}])).generators
        params = made.params
        assert made.n == 2
        assert (params.temperature, params.max_tokens, params.top_p, params.top_k, params.min_p) == (0, 9, 0.5, 3, 0.1)
        assert (params.stop, params.logprobs, params.guided) == (("\n",), True, value)


RULES = [
    ({"not_empty": {"field": "answer"}}, ["x"], [""]),
    ({"matches": {"field": "answer", "pattern": "[a-c]+"}}, ["abc"], ["abcd", ""]),
    ({"matches": {"field": "answer", "pattern": "B", "whole": False, "ignore_case": True}}, ["abc"], ["x"]),
    ({"equals": {"field": "answer", "to": 1000}}, ["1,000", "$1000"], ["1001", "x"]),
    ({"equals": {"field": "answer", "to": "{question}"}}, ["Q ", "q"], ["r"]),
    ({"is_number": {"field": "answer", "lowest": 0, "highest": 1}}, ["0.5", "1"], ["2", "-1", "x"]),
    ({"is_number": {"field": "answer", "whole": True}}, ["2"], ["2.5"]),
    ({"one_of": {"field": "answer", "options": ["yes", "no"]}}, ["Yes"], ["maybe"]),
    ({"contains": {"field": "answer", "text": "{question}!"}}, ["so Q!"], ["q"]),
    ({"contains": {"field": "answer", "text": "A", "ignore_case": False}}, ["xA"], ["a"]),
    ({"length": {"field": "answer", "min_words": 2, "max_characters": 5}}, ["a b"], ["ab", "ab cdef"]),
    ({"json_schema": {"field": "answer", "schema": {"type": "array", "minItems": 1}}}, ["[1]"], ["[]", "1", "x"]),
    ({"arithmetic": {"field": "answer", "equals": 24}}, ["4 * 6", "(8 - 2) * 4 = 24"], ["4 * 7", "x", "1 / 0"]),
    ({"every": [{"not_empty": {"field": "answer"}}, {"equals": {"field": "answer", "to": 1}}]}, ["1"], ["2"]),
    ({"some": [{"equals": {"field": "answer", "to": 2}}, {"equals": {"field": "answer", "to": 1}}]}, ["1", "2"], ["3"]),
    ({"none": {"equals": {"field": "answer", "to": 1}}}, ["2"], ["1"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "kept", "broken"), RULES)
def test_rules_refuse_with_a_reason_or_reward(rule: Any, kept: list[str], broken: list[str]) -> None:
    built = program(
        search(checkers=[{"name": "c", "rule": rule}, {"name": "r", "rule": rule, "reward": 2.5}], goal=rule)
    )
    refusing, rewarding = built.checkers
    start = built.start
    assert start is not None
    state = type(start("q"))
    for answer in kept:
        assert refusing(state("q", answer)).valid, answer
        assert built.goal(state("q", answer))
        assert rewarding(state("q", answer)).score == 2.5
    for answer in broken:
        verdict = refusing(state("q", answer))
        assert not verdict.valid, answer
        assert verdict.reason
        assert not built.goal(state("q", answer))
        assert (rewarding(state("q", answer)).valid, rewarding(state("q", answer)).score) == (True, 0.0)
    assert refusing(state("q")).valid == ("none" in rule)  # a field that is empty keeps no rule


def test_arithmetic_counts_the_numbers_that_an_expression_uses() -> None:
    rule = {"arithmetic": {"field": "answer", "equals": "24", "numbers": "question"}}
    built = program(search(state={"question": "list of number", "answer": "text"}, goal=rule))
    start, goal = built.start, built.goal
    assert start is not None
    assert goal is not None
    state = type(start("4 6"))
    assert goal(state((4, 6), "6 * 4"))
    assert not goal(state((4, 6), "4 * (6 + 0)"))
    assert not goal(state((4, 6, 1), "6 * 4"))


@pytest.mark.parametrize(
    ("judge", "replies", "valid", "score"),
    [
        ({"words": {"values": {"sure": 20, "impossible": 0.001}}}, ["x\nsure", "Impossible", "?"], True, 20.001),
        ({"words": {"values": {"sure": 20}, "otherwise": 1, "refuse_below": 2.5}}, ["?", "?"], False, 2.0),
        ("rating", ["8", "6", "none"], True, 7.0),
        ("rating", ["none"], True, 1.0),
        ({"rating": {"lowest": 0, "highest": 100, "otherwise": 50, "refuse_below": 60}}, ["x"], False, 50.0),
        ("yes_no", ["Yes.", "no", "well: yes"], True, 2 / 3),
        ("yes_no", ["no", "yes", "no"], False, 1 / 3),
        ("yes_no", ["hm"], False, 0.0),
    ],
)
def test_judgements_are_read_of_the_samples(judge: Any, replies: list[str], valid: bool, score: float) -> None:
    form = search(checkers=[{"name": "j", "prompt": "Is {answer} good?", "num_samples": len(replies), "judge": judge}])

    def reply(prompt: str, sample: int) -> str:
        return replies[sample] if prompt.startswith("Is it good") else "it"

    result = program(form).run("q", backend=ScriptedBackend(reply))
    (verdict,) = [verdict for thought in result.graph for name, verdict in thought.verdicts if name == "j"]
    assert (verdict.valid, verdict.score) == (valid, pytest.approx(score))


def test_models_compare_by_vote_and_in_pairs() -> None:
    for kind, prompt, best in (("vote", "{candidates}", "b"), ("pairwise", "{first} or {second}", "c")):
        form = search(
            generators=[{"name": "g", "prompt": "{question}", "num_samples": 3, "parse": "text", "into": "answer"}],
            checkers=[{"name": "v", "kind": kind, "prompt": prompt}],
            controller={"BeamSearch": {"beam_width": 1, "max_depth": 1}},
        )
        result = program(form).run("q", backend=ScriptedBackend(_vote if kind == "vote" else _prefer))
        assert result.answer == best


def _vote(prompt: str, sample: int) -> str:
    return "abc"[sample] if prompt == "q" else "I choose\n2"


def _prefer(prompt: str, sample: int) -> str:
    if prompt == "q":
        return "abc"[sample]
    first, _, second = prompt.partition(" or ")
    return "1" if first == "c" else "2" if second == "c" else "neither"


def test_a_generator_that_aggregates_makes_one_state_of_many() -> None:
    form = search(
        generators=[
            {"name": "draw", "prompt": "{question}", "num_samples": 2, "parse": "text", "into": "answer"},
            {"name": "merge", "prompt": "{num_candidates}:\n{candidates}", "parse": "text", "into": "answer",
             "aggregates": True},
        ],
        controller={"GraphOfThoughts": {"operations": {
            "draw": {"Generate": {"generator": "draw"}},
            "both": {"Aggregate": {"generator": "merge", "after": ["draw"]}},
        }}},
    )  # fmt: skip
    backend = ScriptedBackend(lambda prompt, sample: "xy"[sample] if prompt == "q" else prompt.replace("\n", " "))
    result = program(form).run("q", backend=backend)
    assert result.answer == "2: Choice 1: x Choice 2: y"
    assert len(result.thought.parents) == 2


def test_key_and_explain_speak_of_fields() -> None:
    node = {
        "name": "g",
        "prompt": "{question}",
        "num_samples": 3,
        "parse": {"regex": {"pattern": "(\\w) (\\w)"}},
        "into": {"answer": "value", "said": "completion"},
    }
    form = search(
        state={"question": "text", "answer": "text", "said": "text"},
        generators=[node],
        controller={"BreadthFirstSearch": {"max_depth": 1}},
        key="answer",
        goal={"equals": {"field": "answer", "to": "z"}},
        explain="nothing came of {question}",
    )
    result = program(form).run("q", backend=ScriptedBackend(lambda prompt, sample: ["a 1", "a 2", "b 3"][sample]))
    assert len(result.graph) == 3
    assert (result.solved, result.explanation) == (False, "nothing came of q")


# ------------------------------------------------------------------------------------------------ dataflow


def test_programs_are_joined_as_in_python() -> None:
    echo = search(name="echo", generators=[{"name": "g", "prompt": "{question}", "parse": "text", "into": "answer"}])
    form = {
        "name": "whole",
        "sequence": [
            {"apply": "lines"},
            {"map": {"program": echo, "on_unsolved": "skip", "concurrency": 2}},
            {"apply": {"join": {"between": " + "}}},
            {"parallel": {"programs": {"sum": {"apply": "calculate"}, "text": {"apply": {"template": "<{input}>"}}},
                          "join": "{text} is {sum}"}},
            {"branch": {"on": {"choices": {"options": ["is"]}}, "cases": {"is": {"apply": "last_number"}},
                        "otherwise": {"apply": "text"}}},
        ],
    }  # fmt: skip
    result = program(form).run("1\n2\n3.5", backend=ScriptedBackend(lambda prompt, sample: f"{prompt}"))
    assert result.answer == Fraction(13, 2)

    double = {"sequence": [{"apply": {"template": "{input} * 2"}}, {"apply": "calculate"}]}
    until = {"is_number": {"lowest": 50}}
    assert program({"loop": {"program": double, "until": until, "max_rounds": 9}}).run("7").answer == 56
    add = {"sequence": [{"apply": {"join": {"between": "+"}}}, {"apply": "calculate"}]}
    reduced = {"sequence": [{"apply": "lines"}, {"reduce": {"program": add, "associative": True, "initial": "10"}}]}
    assert program(reduced).run("1\n2\n3").answer == 16

    voted = {"vote": {"program": echo, "num_samples": 9, "stopping": {"WindowStop": {"window": 3}}}}
    result = program(voted).run("x", backend=ScriptedBackend(lambda prompt, sample: "y"))
    assert (result.answer, result.votes.num_samples, result.stopped) == ("y", 3, "confident")

    asked = {"branch": {"ask": echo, "cases": {"a": {"apply": {"template": "A {input}"}}}}}
    assert program(asked).run("x", backend=ScriptedBackend(lambda prompt, sample: "a")).answer == "A x"


def test_a_program_of_a_file_is_sent_to_other_processes() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    form = search(goal={"equals": {"field": "answer", "to": "x"}}, key="answer")
    again = cloudpickle.loads(cloudpickle.dumps(program(form)))
    assert again.run("q", backend=ScriptedBackend(lambda prompt, sample: "x")).answer == "x"


def test_a_program_of_a_file_runs_on_the_embedded_model() -> None:
    pytest.importorskip("torch")
    form = {"program": "arithmetic", "set": {"num_samples": 3}}
    result = program({"sequence": [form, {"apply": {"template": "It is {input}."}}]}).run(
        "(17 + 25) * 3 - 40", backend="local:puzzles", seed=1
    )
    assert result.answer == "It is 86."
    assert json.dumps(result.to_json())
