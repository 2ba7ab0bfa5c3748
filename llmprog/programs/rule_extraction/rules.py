"""What a rule is, when a reply is a list of rules, and when two rules contradict each other: all decided exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

MODALITIES = ("must", "must not", "may")
_MAX_REPLY = 50_000
_MAX_BRACES = 20  # a hostile reply may consist of them
_MAX_FAULTS = 5  # as many as a model is told of at once

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["rules"],
    "additionalProperties": False,
    "properties": {
        "rules": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["who", "modality", "action", "conditions", "source"],
                "additionalProperties": False,
                "properties": {
                    "who": {"type": "string", "minLength": 1, "maxLength": 200},
                    "modality": {"enum": list(MODALITIES)},
                    "action": {"type": "string", "minLength": 1, "maxLength": 400},
                    "conditions": {
                        "type": "array",
                        "maxItems": 10,
                        "items": {"type": "string", "minLength": 1, "maxLength": 400},
                    },
                    "source": {"type": "string", "minLength": 1, "maxLength": 4000},
                },
            },
        }
    },
}
"""What a reply has to satisfy, as a JSON schema."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who must, must not or may do what, and when.

    Attributes:
        who: Whom it binds.
        modality: ``must``, ``must not`` or ``may``.
        action: What they do, without the modality.
        conditions: All have to hold for the rule to apply; none means always.
        source: The sentence that says so, word for word.
    """

    who: str
    modality: str
    action: str
    conditions: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        when = f" if {' and '.join(self.conditions)}" if self.conditions else ""
        return f"{self.who} {self.modality} {self.action}{when}"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two rules that cannot both be kept, wherever both apply."""

    first: Rule
    second: Rule

    def __str__(self) -> str:
        return f"'{self.first}' against '{self.second}'"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of a text.

    Attributes:
        rules: In the order of the text.
        contradictions: Pairs of them.
        unread: Sentences for which no valid reply came, each with what was wrong with the last one.
    """

    rules: tuple[Rule, ...]
    contradictions: tuple[Contradiction, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [str(rule) for rule in self.rules] or ["no rules"]
        lines += [f"contradiction: {pair}" for pair in self.contradictions]
        return "; ".join([*lines, *(f"not read: {sentence!r} ({fault})" for sentence, fault in self.unread)])

    def to_json(self) -> dict[str, Any]:
        """It as JSON values; contradictions are pairs of places among the rules."""
        places = {id(rule): place for place, rule in enumerate(self.rules)}
        return {
            "rules": [asdict(rule) for rule in self.rules],
            "contradictions": [[places[id(pair.first)], places[id(pair.second)]] for pair in self.contradictions],
            "unread": [{"sentence": sentence, "fault": fault} for sentence, fault in self.unread],
        }


def read_reply(reply: str, sentence: str) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules in a reply and what is wrong with it; there are rules only where nothing is wrong.

    Looking for the JSON object is lenient (text and fences around it are passed over). Everything else is exact: the
    schema, and that every rule quotes ``sentence`` as its source, up to white space.
    """
    value, fault = _json_object(reply[:_MAX_REPLY])
    if value is None:
        return (), (fault,)
    from jsonschema import Draft202012Validator

    found = sorted(Draft202012Validator(SCHEMA).iter_errors(value), key=lambda error: list(map(str, error.path)))
    faults = [f"{'/'.join(map(str, error.path)) or 'the object'}: {error.message[:200]}" for error in found]
    if faults:
        return (), tuple(faults[:_MAX_FAULTS])
    rules = tuple(
        Rule(
            _plain(entry["who"]),
            entry["modality"],
            _plain(entry["action"]),
            tuple(map(_plain, entry["conditions"])),
            _plain(entry["source"]),
        )
        for entry in value["rules"]
    )
    for place, rule in enumerate(rules):
        if rule.source != _plain(sentence):
            faults.append(f"rules/{place}/source: it is not the sentence, word for word: {rule.source[:200]!r}")
        if not (rule.who and rule.action and all(rule.conditions)):
            faults.append(f"rules/{place}: a text in it is blank")
    return (() if faults else rules), tuple(faults[:_MAX_FAULTS])


def _json_object(text: str) -> tuple[Any, str]:
    """The first JSON object with ``rules``, else the one the text begins with; or ``None`` and why there is none."""
    decoder = json.JSONDecoder()
    first, fault = None, "there is no JSON object"
    for tries, match in enumerate(re.finditer(r"\{", text)):
        if tries == _MAX_BRACES:
            break
        try:
            value = decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError) as error:
            if tries == 0:
                fault = f"it is no JSON: {error}"
            continue
        if "rules" in value:
            return value, ""
        if tries == 0:
            first = value
    return first, fault


def _plain(text: str) -> str:
    return " ".join(text.split())


def contradictions_in(rules: Sequence[Rule]) -> list[Contradiction]:
    """All pairs of rules that say ``must not`` and ``must`` or ``may`` of the same action of the same people.

    They contradict each other where both apply, which is certain if the conditions of one are among those of the other.
    Wording is compared without case, punctuation and articles: what says the same in other words is not found out.
    """
    return [
        Contradiction(first, second)
        for first, second in combinations(rules, 2)
        if (first.modality == "must not") != (second.modality == "must not")
        and (_form(first.who), _form(first.action)) == (_form(second.who), _form(second.action))
        and _is_nested(first, second)
    ]


def _is_nested(first: Rule, second: Rule) -> bool:
    ours, theirs = ({_form(text) for text in rule.conditions} for rule in (first, second))
    return ours <= theirs or theirs <= ours


def _form(text: str) -> str:
    words = re.findall(r"\w+", text.casefold())
    return " ".join(word for word in words if word not in ("a", "an", "the"))
