"""The rule_extraction program: sentence by sentence to a checked structure, with faults handed back for repair.

Schlag et al. 2023 (arXiv 2305.05364) count the translation of rules into a form that can be checked among what programs
around a model are for. The dataflow: split into sentences, of each (a ``Map``) ask for its rules and check the reply (a
``Loop``, which hands the faults back), then look for contradictions among all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmprog.combinators import Apply, Loop, Map, Sequence
from llmprog.errors import InputError, OptionError
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.programs.recursive_summary import sentences_of
from llmprog.programs.rule_extraction.rules import Rule, RuleSet, contradictions_in, read_reply
from llmprog.search import BestOfN

_MAX_TEXT = 200_000
_MAX_SENTENCE = 3000
_MAX_SHOWN = 2000  # characters of a wrong reply that are handed back

_EXAMPLE_SENTENCE = "Visitors may not take photographs unless a guide agrees."
_EXAMPLE = {
    "rules": [
        {
            "who": "visitors",
            "modality": "must not",
            "action": "take photographs",
            "conditions": ["no guide agrees"],
            "source": _EXAMPLE_SENTENCE,
        }
    ]
}
_PROMPT = (
    "Write the rules that a sentence states as JSON. Each rule says who must, must not or may do what, under which "
    "conditions (an empty list for always), and quotes the sentence as its source. A sentence without a rule gives "
    '{"rules": []}.'
    f"\n\nSentence: {_EXAMPLE_SENTENCE}\nJSON: {json.dumps(_EXAMPLE)}\n\nSentence: "
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence, and what came of reading it.

    Attributes:
        sentence: The sentence.
        rules: Its rules, once a reply was right.
        faults: What is wrong with the last reply; empty before the first, and after a right one.
        reply: That reply.
        num_tries: Replies so far.
        is_asked: Whether another is being waited for.
    """

    sentence: str
    rules: tuple[Rule, ...] = ()
    faults: tuple[str, ...] = ()
    reply: str = ""
    num_tries: int = 0
    is_asked: bool = False

    @property
    def is_read(self) -> bool:
        """Whether a reply was right."""
        return self.num_tries > 0 and not self.faults

    def __str__(self) -> str:
        if self.faults:
            return f"{self.sentence} ({self.faults[0]})"
        return "; ".join(map(str, self.rules)) if self.rules else self.sentence


def ask(state: Reading) -> str:
    """What a model is asked about a sentence, with the faults of its last reply if there was one."""
    asked = f"{_PROMPT}{state.sentence}\nJSON:"
    if state.faults:
        faults = "\n".join(f"- {fault}" for fault in state.faults)
        asked += f"\n{state.reply[:_MAX_SHOWN]}\n\nThis is wrong:\n{faults}\nWrite it again, corrected.\nJSON:"
    return asked


def split_rules(text: str) -> list[Reading]:
    """The sentences of a text, to be read.

    Raises:
        InputError: There is no text, or it or a sentence is too long.
    """
    given = str(text)
    sentences = [plain for sentence in sentences_of(given[: _MAX_TEXT + 1]) if (plain := " ".join(sentence.split()))]
    longest = max(map(len, sentences), default=0)
    if not 1 <= longest <= _MAX_SENTENCE or len(given) > _MAX_TEXT:
        raise InputError(
            f"rule_extraction: a text of {len(given)} characters, its longest sentence of {longest}; allowed are texts "
            f"of 1 to {_MAX_TEXT} whose sentences have at most {_MAX_SENTENCE}, such as 'Dogs must be on a lead.'"
        )
    return [Reading(sentence) for sentence in sentences]


@generator(name="collect")
def collect(state: RuleSet | tuple[Reading, ...]) -> Iterable[RuleSet]:
    """The rules of all sentences, and their contradictions."""
    if isinstance(state, RuleSet):
        return []
    rules = tuple(rule for reading in state for rule in reading.rules)
    unread = tuple((reading.sentence, reading.faults[0]) for reading in state if not reading.is_read)
    return [RuleSet(rules, tuple(contradictions_in(rules)), unread)]


def rule_extraction(
    *,
    max_tries: int = 3,
    temperature: float = 0.3,
    max_tokens: int = 500,
    concurrency: int | None = None,
) -> Program:
    """Turn rules in natural language into a checked structure with sources, and find contradictions.

    Args:
        max_tries: Replies per sentence: the first, and repairs of those that are wrong.
        temperature: Of the replies.
        max_tokens: Longest reply, in the model's tokens.
        concurrency: Sentences read at once; as many as the run allows by default.
    """
    if max_tries < 1:
        raise OptionError(f"max_tries={max_tries!r}; allowed is a whole number >= 1")

    @generator(prompt=ask, name="extract", temperature=temperature, max_tokens=max_tokens)
    def extract(state: Reading, completion: str) -> Iterable[Reading]:
        rules, faults = read_reply(completion, state.sentence)
        return [Reading(state.sentence, rules, faults, completion, state.num_tries + 1)]

    def is_settled(reading: Reading) -> bool:
        return reading.is_read or reading.num_tries >= max_tries

    once = Program(
        name="extract",
        start=_asked,
        generators=[extract],
        controller=BestOfN(num_samples=1),
        goal=_is_answered,  # a reply that is cut has faults like any other
    )
    repair = Loop(once, until=is_settled, max_rounds=max_tries, name="repair")
    return Sequence(
        Apply(split_rules, name="split"),
        Map(repair, concurrency=concurrency, name="sentences"),
        Program(
            name="rules",
            start=tuple,
            generators=[collect],
            controller=BestOfN(num_samples=1),
            goal=_is_complete,
            explain=_explain,
        ),
        name="rule_extraction",
    )


def _asked(reading: Reading) -> Reading:
    return replace(reading, is_asked=True)


def _is_answered(reading: Reading) -> bool:
    return not reading.is_asked


def _is_complete(state: RuleSet | tuple[Reading, ...]) -> bool:
    return isinstance(state, RuleSet) and not state.unread


def _explain(state: tuple[Reading, ...]) -> str:
    missing = [reading for reading in state if not reading.is_read]
    return (
        f"no valid reply for {len(missing)} of {len(state)} sentences, the first {missing[0].sentence[:80]!r}: "
        f"{missing[0].faults[0]}; the rules of the others are the answer; raise max_tries, or use a larger model"
    )
