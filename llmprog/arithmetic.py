"""Exact arithmetic on text that nobody vouches for: a grammar with limits, evaluated into fractions.

::

    sum      = product { ("+" | "-" | "−") product }
    product  = signed { ("*" | "×" | "/" | "÷") signed }
    signed   = { "-" | "−" } ( number | "(" sum ")" )
    number   = digits [ "." digits ]                     so "8/3" is the quotient it says it is

Nothing is ever handed to ``eval``. A text longer than 4,096 characters, with more than 512 numbers and operators,
nested deeper than 64, or with a value beyond 4,096 bits is refused, and there are no powers, so every text is
answered or refused within milliseconds. Nothing here recurses: an expression is held in postfix order.

The errors, all of them ``LLMProgError``::

    ExpressionError
    ├── ArithmeticSyntaxError   the text is not in the grammar or beyond its limits (``.position``, ``.reason``)
    └── ArithmeticValueError    the expression has no value within the limits: a zero divisor, a giant number
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NoReturn

from llmprog.errors import LLMProgError

MAX_CHARACTERS = 4096
MAX_NODES = 512
MAX_DEPTH = 64
MAX_BITS = 4096

BinaryOperator = Literal["+", "-", "*", "/"]
Operator = Literal["+", "-", "*", "/", "negate"]

_SPELLINGS: dict[str, BinaryOperator] = {"+": "+", "-": "-", "−": "-", "*": "*", "×": "*", "/": "/", "÷": "/"}
_PRECEDENCE: dict[Operator, int] = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}
_BINARY = frozenset(_SPELLINGS.values())
_ATOM = 4

_TOKEN = re.compile(r"[ \t\r\n]*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<symbol>[-−+*×/÷()]))")
_SPACES = re.compile(r"[ \t\r\n]*")
# A decimal digit is worth at least 3.3 bits, so a longer number is beyond MAX_BITS whatever its digits are.
_MAX_DIGITS = MAX_BITS * 10 // 33


class ExpressionError(LLMProgError):
    """An arithmetic text or expression cannot be used."""


class ArithmeticSyntaxError(ExpressionError):
    """A text is not in the grammar, or is beyond its limits.

    Attributes:
        position: Offset of the offending character, from 0.
        reason: What is wrong there.
    """

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.position = position
        self.reason = reason
        super().__init__(
            f"{_excerpt(text, position)} is not an arithmetic expression: character {position + 1}: {reason}"
        )


class ArithmeticValueError(ExpressionError):
    """An expression has no value within the limits."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An arithmetic expression, with exact fractions for numbers.

    ``str()`` gives its canonical text, with the fewest parentheses that keep its structure; where that text is within
    the limits, it parses to an equal expression.

    Attributes:
        postfix: Numbers and operators, operands first. Numbers are not negative and have finitely many decimals; other
            values are made of them (see ``of``).
    """

    postfix: tuple[Fraction | Operator, ...]

    def __post_init__(self) -> None:
        if len(self.postfix) > MAX_NODES:
            raise ArithmeticValueError(
                f"an expression of {len(self.postfix)} numbers and operators; allowed are at most {MAX_NODES}"
            )
        waiting = 0
        for item in self.postfix:
            if isinstance(item, Fraction):
                if item < 0 or _bits(item) > MAX_BITS or not _is_decimal(item):
                    value = _shortened(str(item)) if _bits(item) <= MAX_BITS else f"a value of {_bits(item)} bits"
                    raise ArithmeticValueError(
                        f"{value} is not a number as it is written; allowed are non-negative decimals of at most "
                        f"{MAX_BITS} bits; Expression.of(value) makes an expression of any fraction"
                    )
                waiting += 1
            elif item not in _PRECEDENCE:
                raise ArithmeticValueError(f"unknown operator {item!r}; allowed are {', '.join(_PRECEDENCE)}")
            else:
                operands = 1 if item == "negate" else 2
                if waiting < operands:
                    raise ArithmeticValueError(f"operator {item!r} has too few operands before it")
                waiting -= operands - 1
        if waiting != 1:
            raise ArithmeticValueError(f"an expression must leave one value; this one leaves {waiting}")

    @classmethod
    def of(cls, value: Fraction | int) -> Expression:
        """An expression whose value is ``value``: a whole number, or a quotient of two, negated if need be."""
        value = Fraction(value)
        size = Fraction(abs(value.numerator))
        postfix: tuple[Fraction | Operator, ...] = (size,)
        if value.numerator < 0:
            postfix = (*postfix, "negate")
        if value.denominator != 1:
            postfix = (*postfix, Fraction(value.denominator), "/")
        return cls(postfix)

    def joined(self, operator: BinaryOperator, right: Expression) -> Expression:
        """The expression ``self operator right``.

        Raises:
            ArithmeticValueError: It has more than 512 numbers and operators.
        """
        postfix = (*self.postfix, *right.postfix, operator)
        if len(postfix) > MAX_NODES or operator not in _BINARY:
            return Expression(postfix)  # which refuses it
        # Two expressions joined are one: checking every number again at every step of a search would take longer than
        # the step itself.
        joined = object.__new__(Expression)
        object.__setattr__(joined, "postfix", postfix)
        return joined

    def numbers(self) -> tuple[Fraction, ...]:
        """The numbers written in the expression, in the order of its text."""
        return tuple(item for item in self.postfix if isinstance(item, Fraction))

    def evaluate(self) -> Fraction:
        """The exact value.

        Raises:
            ArithmeticValueError: A divisor is zero, or a value on the way needs more than 4,096 bits.
        """
        values: list[Fraction] = []
        for index, item in enumerate(self.postfix):
            if isinstance(item, Fraction):
                values.append(item)
            elif item == "negate":
                values.append(-values.pop())
            else:
                right, left = values.pop(), values.pop()
                if item == "/" and not right:
                    raise ArithmeticValueError(f"{_shortened(str(self))} divides by zero: {self._divisor(index)} is 0")
                values.append(_apply(item, left, right))
            if _bits(values[-1]) > MAX_BITS:
                raise ArithmeticValueError(
                    f"{_shortened(str(self))} has a value of {_bits(values[-1])} bits on the way; "
                    f"allowed are at most {MAX_BITS}"
                )
        return values[0]

    def _divisor(self, index: int) -> str:
        """Text of the right operand of the operator at ``index``."""
        start, missing = index, 1
        while missing:
            start -= 1
            item = self.postfix[start]
            missing += -1 if isinstance(item, Fraction) else 0 if item == "negate" else 1
        return _shortened(str(Expression(self.postfix[start:index])))

    def __str__(self) -> str:
        texts: list[tuple[str, int]] = []
        for item in self.postfix:
            if isinstance(item, Fraction):
                texts.append((_decimal_text(item), _ATOM))
                continue
            rank = _PRECEDENCE[item]
            right, right_rank = texts.pop()
            if item == "negate":
                texts.append((f"-({right})" if right_rank < rank else f"-{right}", rank))
                continue
            left, left_rank = texts.pop()
            left = f"({left})" if left_rank < rank else left
            right = f"({right})" if right_rank <= rank else right
            texts.append((f"{left} {item} {right}", rank))
        return texts[0][0]


class _Parser:
    """Dijkstra's shunting yard, so nesting costs no stack frames."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.output: list[Fraction | Operator] = []
        self.pending: list[tuple[Operator | Literal["("], int]] = []
        self.num_nodes = 0
        self.depth = 0

    def parse(self) -> Expression:
        if len(self.text) > MAX_CHARACTERS:
            self.refuse(MAX_CHARACTERS, f"the text has {len(self.text)} characters; allowed are {MAX_CHARACTERS}")
        position, operand_next = 0, True
        end = len(self.text.rstrip(" \t\r\n"))
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                self.refuse_character(_skip_spaces(self.text, position))
            start = match.start("number" if match["number"] else "symbol")
            operand_next = self.read_operand(match, start) if operand_next else self.read_operator(match, start)
            position = match.end()
        if operand_next:
            self.refuse(end, "a number is missing" if end else "the text is empty; a number is needed")
        while self.pending:
            operator, start = self.pending.pop()
            if operator == "(":
                self.refuse(start, "this parenthesis is never closed")
            self.output.append(operator)
        return Expression(tuple(self.output))

    def read_operand(self, match: re.Match[str], start: int) -> bool:
        """Take a number, a sign or an opening parenthesis; True while an operand is still to come."""
        if match["number"]:
            self.count_node(start)
            self.output.append(self.number(match["number"], start))
            return False
        if match["symbol"] == "(":
            self.push("(", start)
        elif match["symbol"] in "-−":
            self.count_node(start)
            self.push("negate", start)
        else:
            power = self.text[start - 1 : start + 1] == "**"
            self.refuse(start, "powers are not allowed" if power else f"a number is missing before {match['symbol']!r}")
        return True

    def read_operator(self, match: re.Match[str], start: int) -> bool:
        """Take an operator or a closing parenthesis; True where an operand has to follow."""
        symbol = match["symbol"]
        if symbol == ")":
            while self.pending and self.pending[-1][0] != "(":
                self.reduce()
            if not self.pending:
                self.refuse(start, "this parenthesis was never opened")
            self.pending.pop()
            self.depth -= 1
            return False
        if symbol is None or symbol == "(":
            self.refuse(start, f"an operator is missing before {match[0].strip()[:20]!r}")
        self.count_node(start)
        operator = _SPELLINGS[symbol]
        while self.pending:
            waiting = self.pending[-1][0]
            if waiting == "(" or _PRECEDENCE[waiting] < _PRECEDENCE[operator]:
                break
            self.reduce()
        self.pending.append((operator, start))
        return True

    def push(self, nested: Literal["(", "negate"], start: int) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(start, f"parentheses and signs are nested deeper than {MAX_DEPTH}")
        self.pending.append((nested, start))

    def reduce(self) -> None:
        operator, _ = self.pending.pop()
        if operator == "negate":
            self.depth -= 1
        if operator != "(":
            self.output.append(operator)

    def number(self, digits: str, start: int) -> Fraction:
        if len(digits) - 1 > _MAX_DIGITS or _bits(value := Fraction(digits)) > MAX_BITS:
            self.refuse(start, f"a number of {len(digits)} characters; allowed are values of at most {MAX_BITS} bits")
        return value

    def count_node(self, start: int) -> None:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            self.refuse(start, f"more than {MAX_NODES} numbers and operators")

    def refuse_character(self, position: int) -> NoReturn:
        self.refuse(position, f"{self.text[position]!a} is not allowed; allowed are numbers, + - * / ( )")

    def refuse(self, position: int, reason: str) -> NoReturn:
        raise ArithmeticSyntaxError(self.text, position, reason)


def parse(text: str) -> Expression:
    """The expression that ``text`` spells.

    Raises:
        ArithmeticSyntaxError: The text is not in the grammar or beyond its limits.
    """
    return _Parser(text).parse()


def evaluate(text: str) -> Fraction:
    """The exact value of the expression that ``text`` spells.

    Raises:
        ArithmeticSyntaxError: The text is not in the grammar or beyond its limits.
        ArithmeticValueError: A divisor is zero, or a value on the way needs more than 4,096 bits.
    """
    return parse(text).evaluate()


# Every repetition is followed by something it cannot itself match, so a hostile text costs linear time.
_STATED_NUMBER = re.compile(
    r"""
    (?P<sign>[-−+]?) \s*
    (?:(?:US|A|C|HK)?[$€£¥₹]\s*)?
    (?P<late_sign>[-−]?)
    (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+|(?=\.[0-9]))
    (?:\.(?P<decimals>[0-9]+)|\s*/\s*(?P<denominator>[0-9]+))?
    (?:\s*(?:[^\W\d_]|[€£¥₹$%°])[^\d+*=×÷−<>:;?!\n]*)?   # a unit: anything but digits and operators
    """,
    re.VERBOSE,
)


def canonical_number(text: str) -> Fraction | None:
    """The number that ``text`` states, or ``None`` where it does not state exactly one.

    Thousands separators, a currency, a unit in words, a percent sign (50% is 50) and a final full stop are dropped:
    ``$1,234.50`` is 2469/2, ``-8/3 cups.`` is -8/3, ``eight`` and ``3 or 4`` are ``None``.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    match = _STATED_NUMBER.fullmatch(text.strip().removesuffix(".").rstrip())
    if match is None or (match["sign"] and match["late_sign"]):
        return None
    whole, decimals = match["whole"].replace(",", ""), match["decimals"] or ""
    digits = f"{whole or 0}.{decimals or 0}"
    denominator = match["denominator"] or "1"
    if len(digits) + len(denominator) - 3 > _MAX_DIGITS or not int(denominator):
        return None
    value = Fraction(digits) / int(denominator)
    return -value if (match["sign"] or match["late_sign"]) in ("-", "−") else value


def format_number(value: Fraction) -> str:
    """``value`` as text that ``evaluate`` and ``canonical_number`` read back: ``24``, ``8/3``, ``-8/3``.

    Raises:
        ArithmeticValueError: The value needs more than 4,096 bits.
    """
    if _bits(value) > MAX_BITS:
        raise ArithmeticValueError(f"a value of {_bits(value)} bits; allowed are at most {MAX_BITS}")
    return str(value)


def _apply(operator: BinaryOperator, left: Fraction, right: Fraction) -> Fraction:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right


def _bits(value: Fraction) -> int:
    """Bits of the larger of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _is_decimal(value: Fraction) -> bool:
    """Whether ``value`` has finitely many decimals: no prime but 2 and 5 divides its denominator."""
    return pow(10, value.denominator.bit_length(), value.denominator) == 0 if value.denominator > 1 else True


def _decimal_text(value: Fraction) -> str:
    """``value`` in decimals, without trailing zeros: ``24``, ``2.5``."""
    num_decimals = 0
    scaled = value
    while scaled.denominator > 1:
        scaled *= 10
        num_decimals += 1
    if not num_decimals:
        return str(scaled.numerator)
    digits = str(scaled.numerator).rjust(num_decimals + 1, "0")
    return f"{digits[:-num_decimals]}.{digits[-num_decimals:]}"


def _skip_spaces(text: str, position: int) -> int:
    match = _SPACES.match(text, position)
    return match.end() if match else position


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]} … ({len(text)} characters)"


def _excerpt(text: str, position: int) -> str:
    """The text around ``position`` as a literal: control characters and surrogates are escaped."""
    if len(text) <= 80:
        return ascii(text) if not text.isprintable() else repr(text)
    start = max(0, min(position - 40, len(text) - 80))
    part = text[start : start + 80]
    shown = repr(part) if part.isprintable() else ascii(part)
    return f"{'…' if start else ''}{shown}{'…' if start + 80 < len(text) else ''}"
