import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.errors import OptionError
from llmprog.runs.budget import Budget


def test_a_text_names_the_limits():
    budget = Budget.parse("calls=200, tokens=1e6,usd=2.5,seconds=60,thoughts=5000")
    assert budget == Budget(calls=200, tokens=1_000_000, usd=2.5, seconds=60, thoughts=5000)
    assert isinstance(budget.tokens, int)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_seconds_may_carry_a_unit(text, seconds):
    assert Budget.parse(f"seconds={text}").seconds == seconds


def test_a_ledger_to_share_is_named_beside_the_limits():
    assert Budget.parse("usd=2,file=shared/team.ledger").file == "shared/team.ledger"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dollars=2", "unknown limit in the budget 'dollars=2': 'dollars'; known: calls, file, seconds"),
        ("", "unknown limit"),
        ("calls=1,calls=2", "calls is named twice"),
        ("calls=", "calls has no value; write calls=200"),
        ("calls", "calls has no value"),
        ("usd=two", "usd=two is not a number; write usd=2"),
        ("tokens=1.5", "Budget(tokens=1.5); allowed is a whole number >= 1"),
        ("calls=0", "allowed is a whole number >= 1"),
        ("usd=nan", "allowed is a finite number > 0"),
        ("usd=inf", "allowed is a finite number > 0"),
        ("usd=-1", "allowed is a finite number > 0"),
        ("seconds=0", "allowed is a finite number > 0"),
        ("seconds=m", "seconds=m is not a number"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_is(text, said):
    with pytest.raises(OptionError) as caught:
        Budget.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("given", [{"calls": True}, {"usd": "2"}, {"calls": 2.5}, {"file": ""}])
def test_values_are_checked_in_python_too(given):
    with pytest.raises(OptionError, match="allowed is"):
        Budget(**given)


_NUMBERS = st.floats(min_value=1e-6, max_value=1e12, allow_nan=False)
_WHOLE = st.integers(1, 10**14)


@given(
    st.fixed_dictionaries(
        {},
        optional={"calls": _WHOLE, "tokens": _WHOLE, "usd": _NUMBERS, "seconds": _NUMBERS, "thoughts": _WHOLE},
    ).filter(bool)
)
def test_a_budget_written_down_is_read_again(limits):
    text = str(Budget(**limits))
    read = Budget.parse(text)
    assert str(read) == text
    for name, value in limits.items():
        assert getattr(read, name) == pytest.approx(value, rel=1e-14)


def test_the_place_of_the_ledger_is_not_written_down():
    budget = Budget(usd=2, file="postgresql://me:hidden-word@host/db")
    assert "hidden-word" not in str(budget) + repr(budget) + str(budget.to_json())
