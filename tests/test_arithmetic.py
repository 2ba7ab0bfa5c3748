"""The exact arithmetic grammar: what it reads, what it refuses, and that it never does anything else."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmprog.arithmetic import (
    MAX_BITS,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_NODES,
    ArithmeticSyntaxError,
    ArithmeticValueError,
    Expression,
    ExpressionError,
    canonical_number,
    evaluate,
    format_number,
    parse,
)
from llmprog.errors import LLMProgError

REFUSAL_LIMIT_S = 0.05


def seconds_of(function):
    """The CPU time of this thread, at its least of three times: a collection of garbage may fall into one of them."""
    took = []
    for _ in range(3):
        start = time.thread_time()
        function()
        took.append(time.thread_time() - start)
    return min(took)


# An independent model of an expression: a tree of tuples, evaluated and written by plain recursion.
decimals = st.decimals(min_value=0, max_value=10**6, places=3, allow_nan=False).map(Fraction)
literals = st.one_of(st.integers(0, 20).map(Fraction), decimals)
trees = st.recursive(
    literals,
    lambda inner: st.one_of(
        st.tuples(st.just("negate"), inner), st.tuples(st.sampled_from(["+", "-", "*", "/"]), inner, inner)
    ),
    max_leaves=25,
)


def value_of(tree):
    if isinstance(tree, Fraction):
        return tree
    if tree[0] == "negate":
        return -value_of(tree[1])
    left, right = value_of(tree[1]), value_of(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[tree[0]](right)


def literals_of(tree):
    if isinstance(tree, Fraction):
        return (tree,)
    return tuple(number for child in tree[1:] for number in literals_of(child))


def literal_text(value):
    scaled = value * 1000
    return str(value) if value.denominator == 1 else f"{int(scaled) // 1000}.{int(scaled) % 1000:03d}"


def full_text(tree, draw):
    """The tree with parentheses around everything, each operator in one of its spellings."""
    if isinstance(tree, Fraction):
        return literal_text(tree)
    if tree[0] == "negate":
        return f"({draw(st.sampled_from('-−'))}{full_text(tree[1], draw)})"
    spelling = draw(st.sampled_from({"+": "+", "-": "-−", "*": "*×", "/": "/÷"}[tree[0]]))
    space = draw(st.sampled_from(["", " ", "\t"]))
    return f"({full_text(tree[1], draw)}{space}{spelling}{space}{full_text(tree[2], draw)})"


def simplest(spellings):
    """Stands in for Hypothesis' ``draw`` where a test does not vary the spelling."""
    return spellings.elements[0]


@given(trees, st.data())
def test_evaluates_like_fractions_and_round_trips(tree, data):
    text = full_text(tree, data.draw)
    assume(len(text) <= MAX_CHARACTERS)
    expression = parse(text)
    assert expression.numbers() == literals_of(tree)
    assert parse(str(expression)) == expression
    assert len(str(expression).replace(" ", "")) <= len(text)
    try:
        expected = value_of(tree)
    except ZeroDivisionError:
        with pytest.raises(ArithmeticValueError, match="divides by zero"):
            expression.evaluate()
    else:
        assert expression.evaluate() == expected
        assert parse(str(expression)).evaluate() == expected


@given(trees)
def test_each_pair_of_parentheses_in_the_canonical_text_matters(tree):
    expression = parse(full_text(tree, simplest))
    text = str(expression)
    opened = []
    for index, character in enumerate(text):
        if character == "(":
            opened.append(index)
        elif character == ")":
            start = opened.pop()
            without = text[:start] + text[start + 1 : index] + text[index + 1 :]
            assert parse(without) != expression


@given(st.one_of(st.text(), st.text("0123456789.()+-*/×÷− ", max_size=60)))
def test_any_text_is_evaluated_or_refused(text):
    refusal = None
    try:
        value = evaluate(text)
    except ArithmeticValueError:
        return
    except ArithmeticSyntaxError as error:
        refusal = error
    if refusal is None:
        assert evaluate(format_number(value)) == value
    else:
        assert 0 <= refusal.position <= len(text)
        assert refusal.reason in str(refusal)
        assert str(refusal).isprintable()


@given(st.fractions())
def test_any_fraction_has_an_expression(value):
    expression = Expression.of(value)
    assert expression.evaluate() == value
    assert parse(str(expression)) == expression
    assert evaluate(format_number(value)) == canonical_number(format_number(value)) == value


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("(10-4)*(13-9)", 24, "(10 - 4) * (13 - 9)"),
        ("8 ÷ (3 − 8/3)", 24, "8 / (3 - 8 / 3)"),
        ("((6 / 8) / 3)", Fraction(1, 4), "6 / 8 / 3"),
        ("6 / (8 / 3)", Fraction(9, 4), "6 / (8 / 3)"),
        ("-2 × −3", 6, "-2 * -3"),
        ("--(1 + 2)", 3, "--(1 + 2)"),
        ("007.50\n", Fraction(15, 2), "7.5"),
        ("0.1 + 0.2", Fraction(3, 10), "0.1 + 0.2"),
    ],
)
def test_reads_the_usual_notation(text, value, canonical):
    assert evaluate(text) == value
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "the text is empty"),
        (" \t ", 0, "the text is empty"),
        ("1 +", 3, "a number is missing"),
        ("()", 1, r"a number is missing before '\)'"),
        ("* 3", 0, "a number is missing before '*'"),
        ("9**9**9", 2, "powers are not allowed"),
        ("2 ^ 3", 2, "'^' is not allowed"),
        ("2 (3)", 2, "an operator is missing before '('"),
        ("1 2", 2, "an operator is missing before '2'"),
        ("(1", 0, "never closed"),
        ("1)", 1, "never opened"),
        ("two", 0, "'t' is not allowed"),
        ("1.", 1, "'.' is not allowed"),
        ("1_000", 1, "'_' is not allowed"),
        ("٣", 0, r"'\u0663' is not allowed"),
        ("1\u202e2", 1, r"'\u202e' is not allowed"),
        ("__import__('os')", 0, "'_' is not allowed"),
    ],
)
def test_refusals_name_position_and_reason(text, position, reason):
    with pytest.raises(ArithmeticSyntaxError) as caught:
        parse(text)
    assert caught.value.position == position
    assert reason.replace("\\)", ")") in caught.value.reason
    assert f"character {position + 1}: " in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000_000,
        "(" * 10**5,
        "-" * 10**5,
        "(" * 10**5 + "1" + ")" * 10**5,
        "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1),
        "-" * (MAX_DEPTH + 1) + "1",
        "+".join("1" * (MAX_NODES // 2 + 1)),
        "9" * MAX_CHARACTERS,
        "0." + "0" * 1300 + "1",
        "*".join(["9" * 1000] * 4),
        "/".join(["99999999999999"] * 250),
        "9**9**9",
        " " * MAX_CHARACTERS + "1",
        "1" + " " * (MAX_CHARACTERS - 2) + "x",
    ],
    ids=lambda text: f"{text[:4]}…{len(text)}",
)
def test_bombs_are_refused_at_once(text):
    def refuse():
        with pytest.raises(ExpressionError) as caught:
            evaluate(text)
        assert len(str(caught.value)) < 400

    assert seconds_of(refuse) < REFUSAL_LIMIT_S


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH,
        "-" * MAX_DEPTH + "1",
        "+".join("1" * (MAX_NODES // 2)),
        str(2**MAX_BITS - 1),
        "1".ljust(MAX_CHARACTERS),
    ],
    ids=["depth", "signs", "nodes", "bits", "characters"],
)
def test_the_limits_themselves_are_allowed(text):
    expression = parse(text)
    expression.evaluate()
    assert parse(str(expression)) == expression
    assert len({expression, parse(text)}) == 1
    assert repr(expression)


def test_division_by_zero_names_the_divisor():
    with pytest.raises(ArithmeticValueError, match=r"^2 \* 8 / \(-3 \+ 3\) divides by zero: -3 \+ 3 is 0$"):
        evaluate("2 * 8 / (-3 + 3)")


def test_expressions_join():
    steps = Expression.of(10).joined("-", Expression.of(4)).joined("*", parse("13 - 9"))
    assert str(steps) == "(10 - 4) * (13 - 9)"
    assert steps == parse("(10 - 4) * (13 - 9)")
    assert str(Expression.of(Fraction(-8, 3))) == "-8 / 3"


@pytest.mark.parametrize(
    ("postfix", "message"),
    [
        ((), "leaves 0"),
        ((Fraction(1), Fraction(2)), "leaves 2"),
        ((Fraction(1), "+"), "too few operands"),
        ((Fraction(1), Fraction(2), "**"), "unknown operator"),
        ((Fraction(-1),), "non-negative decimals"),
        ((Fraction(1, 3),), r"Expression\.of"),
        ((Fraction(2**MAX_BITS),), "bits"),
        ((Fraction(1), "negate") + ("negate",) * MAX_NODES, "at most 512"),
    ],
)
def test_malformed_postfix_is_refused(postfix, message):
    with pytest.raises(ArithmeticValueError, match=message):
        Expression(postfix)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24", 24),
        (" 24. ", 24),
        ("+24", 24),
        ("−7", -7),
        (".5", Fraction(1, 2)),
        ("$1,234.50", Fraction(2469, 2)),
        ("-$5", -5),
        ("$-5", -5),
        ("US$ 5", 5),
        ("5€", 5),
        ("1,000,000", 1_000_000),
        ("50%", 50),
        ("8/3", Fraction(8, 3)),
        ("-8 / 3 cups.", Fraction(-8, 3)),
        ("12 apples", 12),
        ("3.5 km/h", Fraction(7, 2)),
        ("20 °C", 20),
        ("eight", None),
        ("", None),
        (".", None),
        ("-", None),
        ("--5", None),
        ("-$-5", None),
        ("1,23", None),
        ("1,2345", None),
        ("3 or 4", None),
        ("10 13", None),
        ("5 - 3", None),
        ("x = 5", None),
        ("1e5", None),
        ("1/0", None),
        ("nan", None),
        ("9" * 4000, None),
        ("9" * 10**6, None),
    ],
)
def test_canonical_number(text, value):
    assert canonical_number(text) == value


@given(st.one_of(st.text(), st.text("0123456789.,$%/-−+ ax\n", max_size=30)))
def test_canonical_number_reads_any_text(text):
    value = canonical_number(text)
    assert value is None or canonical_number(format_number(value)) == value


@pytest.mark.parametrize("text", ["5a" + " " * 4000 + "+", "5" + " " * 4000 + "+", "-" + " " * 4000, "1," * 2000])
def test_canonical_number_takes_linear_time(text):
    def refuse():
        assert canonical_number(text) is None

    assert seconds_of(refuse) < REFUSAL_LIMIT_S


def test_format_number_refuses_giants():
    with pytest.raises(ArithmeticValueError, match="at most 4096"):
        format_number(Fraction(1, 2**MAX_BITS))


def test_every_error_is_an_llmprog_error():
    assert issubclass(ExpressionError, LLMProgError)
