from __future__ import annotations

import pytest

from llmprog import Checker, Choices, Completion, Generator, Verdict, checker, generator
from llmprog.errors import DeclarationError, OptionError


def test_a_declared_node_is_called_like_its_function():
    @generator(prompt="{state}", n=3, temperature=0.2, stop="\n")
    def propose(state, completion: str):
        return [state + completion]

    assert isinstance(propose, Generator)
    assert propose("a", "b") == ["ab"]
    assert (propose.name, propose.n, propose.takes) == ("propose", 3, "completion")
    assert (propose.params.temperature, propose.params.stop) == (0.2, ("\n",))
    assert propose.calls_model


def test_the_forms_of_a_node():
    async def thinks(state, model):
        return None

    async def yields(state, model):
        yield state

    forms = {
        checker(lambda state: True).takes,
        checker(prompt="p")(lambda state, completion: True).takes,
        checker(prompt="p")(lambda state, completions: True).takes,
        generator(thinks).takes,
        generator(yields).takes,
    }
    assert forms == {"nothing", "completion", "completions", "model"}
    assert not checker(lambda state: True).calls_model
    assert isinstance(checker(lambda state: True), Checker)


def test_a_parser_gets_text_or_whole_completions_as_it_is_annotated():
    said = [Completion(text="a"), Completion(text="b")]

    @generator(prompt="p")
    def by_text(state, completion):
        return completion

    @generator(prompt="p")
    def whole(state, completion: Completion):
        return completion

    @generator(prompt="p")
    def all_whole(state, completions: list[Completion]):
        return completions

    assert by_text.parse_each((0,), said) == [(0, "a"), (1, "b")]
    assert whole.parse_each((0,), said) == [(0, said[0]), (1, said[1])]
    assert all_whole.parse_each((0,), said) == [(0, said)]


def test_with_options_makes_a_copy():
    node = generator(prompt="p", name="a", n=2, temperature=0.5)(lambda state, completion: [])
    other = node.with_options(prompt="q", n=5, name="b", max_tokens=9)
    assert (other.prompt, other.n, other.name, other.params.max_tokens, other.params.temperature) == (
        "q",
        5,
        "b",
        9,
        0.5,
    )
    assert (node.prompt, node.n, node.name, node.params.max_tokens) == ("p", 2, "a", 256)
    with pytest.raises(DeclarationError, match="node 'a': n=0"):
        node.with_options(n=0)
    with pytest.raises(DeclarationError, match="node 'rule': its function takes no completion, so it takes no prompt="):
        checker(name="rule")(lambda state: True).with_options(prompt="p")


async def asks(state):
    return None


async def asks_model(state, model):
    return None


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda: generator(lambda: None), r"its function takes \(\); allowed: \(state\), \(state, completion\)"),
        (lambda: generator(lambda a, b, c: []), r"its function takes \(a, b, c\)"),
        (lambda: generator(lambda a, *, b: []), r"its function takes \(a, b\)"),
        (lambda: generator(lambda state, completion: []), "takes 'completion' but the node has no prompt="),
        (lambda: generator(prompt="p")(lambda state: []), "named 'completion' .* found 'none'"),
        (lambda: generator(prompt="p")(lambda state, text: []), "named 'completion' .* found 'text'"),
        (lambda: generator(asks), r"an async node takes \(state, model\)"),
        (lambda: generator(prompt="p")(asks_model), "an async node calls the model itself, so it takes no prompt="),
        (lambda: generator(n=0)(lambda state: []), r"n=0; allowed is a whole number of samples >= 1"),
        (lambda: generator(n=True)(lambda state: []), "n=True"),
        (
            lambda: generator(prompt="p", heat=1)(lambda s, completion: []),
            "unknown option 'heat'; known sampling options",
        ),
        (lambda: checker(kind="jury")(lambda s: 1), "kind='jury'; allowed: state, vote, pairwise"),
        (lambda: checker(kind="pairwise")(lambda s: 1), r"takes \(s\); allowed: \(first, second\)"),
    ],
)
def test_a_wrong_declaration_says_what_is_allowed(declare, complaint):
    with pytest.raises(DeclarationError, match=complaint):
        declare()


def test_a_bad_sampling_value_is_refused_at_declaration():
    with pytest.raises(OptionError, match="temperature=-1"):
        generator(prompt="p", temperature=-1)(lambda state, completion: [])


def test_a_callable_object_can_be_a_node():
    class Mover:
        def __call__(self, state):
            return [state + 1]

    node = generator(Mover())
    assert node.name == "Mover"
    assert node(1) == [2]


def test_optional_parameters_beyond_the_state_are_left_alone():
    node = checker(lambda state, strict=True: strict)
    assert node(0) is True
    assert node.takes == "nothing"


def test_a_verdict_is_valid_and_scores_nothing_by_default():
    assert Verdict() == Verdict(valid=True, score=0.0, reason="")


def test_a_parser_gets_only_completions_of_the_form_asked_for():
    @generator(prompt="?", n=3, guided=Choices(("a", "b")), logprobs=True)
    def letters(state, completion):
        return [completion]

    @checker(prompt="?", n=3)
    def whole(state, completions):
        return len(completions)

    said = [Completion(text="a"), Completion(text="c", violation="'c' is none of the options"), Completion(text="b")]
    assert letters.params.guided == Choices(("a", "b"))
    assert letters.params.logprobs
    assert letters.parse_each((0,), said) == [(0, ["a"]), (2, ["b"])]
    assert whole.parse_each((0,), said) == [(0, 2)]
