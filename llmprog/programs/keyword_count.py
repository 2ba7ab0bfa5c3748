"""How often keywords occur in a text: Graph of Thoughts' third task, with its exact measure of errors.

Besta et al. 2023 (arXiv 2308.09687), section 5.3. A model counts the countries that a text names, in all of it or
sentence by sentence, and the counts are added up.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llmprog.errors import InputError, OptionError
from llmprog.program import Program
from llmprog.programs.divide_and_merge import Method, Part, Task, divide_and_merge

Counts: TypeAlias = tuple[tuple[str, int], ...]

COUNTRIES = (
    "Argentina", "Australia", "Austria", "Belgium", "Bolivia", "Brazil", "Bulgaria", "Cambodia", "Canada", "Chile",
    "China", "Colombia", "Croatia", "Cuba", "Denmark", "Ecuador", "Egypt", "Estonia", "Ethiopia", "Finland", "France",
    "Germany", "Ghana", "Greece", "Hungary", "Iceland", "India", "Indonesia", "Ireland", "Italy", "Jamaica", "Japan",
    "Kenya", "Latvia", "Lithuania", "Madagascar", "Malaysia", "Mexico", "Mongolia", "Morocco", "Nepal",
    "New Zealand", "Nigeria", "Norway", "Pakistan", "Peru", "Poland", "Portugal", "Romania", "Senegal",
    "Slovakia", "Slovenia", "South Africa", "South Korea", "Spain", "Sri Lanka", "Sweden", "Switzerland", "Tanzania",
    "Thailand", "Tunisia", "Turkey", "Uganda", "Ukraine", "Uruguay", "Vietnam", "Zambia", "Zimbabwe",
)  # fmt: skip
MAX_TEXT = 100_000

_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+|\n|$)")
_OBJECT = re.compile(r"\{[^{}]*\}?")
_COUNT = re.compile(r"([^\W\d_][^\W\d_ .'-]*(?:[ .'-]{1,2}[^\W\d_ .'-]+){0,4})[\"'*]*\s{0,5}[:=]\s{0,5}(\d{1,6})\b")
_MAX_REPLY = 100_000  # the end of a longer reply is what is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage(Part):
    """Sentences, and how often keywords were counted in them.

    Attributes:
        sentences: The text.
        keywords: What is counted.
        answer: Keywords with their counts as a model has them; ``None`` before it counted.
    """

    sentences: tuple[str, ...]
    keywords: tuple[str, ...]
    answer: Counts | None = None

    def __str__(self) -> str:
        if self.written:
            return self.written
        return (" ".join(self.sentences) if self.answer is None else shown_counts(self.answer)) + self.which()


def count_keywords(text: str, keywords: Sequence[str]) -> Counter[str]:
    """How often each of ``keywords`` occurs in ``text`` as a word of its own, in any case; only those that do."""
    by_name = {keyword.casefold(): keyword for keyword in keywords}
    # Longer ones first: where one begins with another, the longer is what is meant.
    names = sorted(by_name, key=lambda name: -len(name))
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    return Counter(by_name[found[0].casefold()] for found in pattern.finditer(text) if found[0].casefold() in by_name)


def num_errors(text: str, keywords: Sequence[str], answer: Mapping[str, int]) -> int:
    """Besta et al.'s error scope of a count: Σₖ |how often k was counted − how often it occurs|; 0 for the right one.

    It is summed over the keywords that occur and over everything that was counted, whether it is a keyword or not.
    """
    right = {keyword.casefold(): count for keyword, count in count_keywords(text, keywords).items()}
    said: Counter[str] = Counter()
    for keyword, count in answer.items():
        said[keyword.casefold()] += count
    return sum(abs(said[keyword] - right.get(keyword, 0)) for keyword in said.keys() | right.keys())


# -------------------------------------------------------------------------------------------- input, output


def parse_text(text: str) -> tuple[str, ...]:
    """The sentences of a text; a line's end ends a sentence.

    Raises:
        InputError: There is none, or too much.
    """
    sentences = tuple(found[0].strip() for found in _SENTENCE.finditer(str(text)) if found[0].strip())
    if not sentences or len(str(text)) > MAX_TEXT:
        raise InputError(
            f"keyword_count: a text of {len(str(text))} characters and {len(sentences)} sentences; give 1 sentence at "
            f"least, such as 'We flew from Peru to Chile.', and {MAX_TEXT} characters at most"
        )
    return sentences


def read_counts(reply: str) -> Counts | None:
    """The counts ``keyword: number`` of the last ``{…}`` in a reply, else of all its lines; ``None`` if there are none.

    Counts of 0 are dropped; of several for one keyword the last counts.
    """
    text = reply[-_MAX_REPLY:]
    objects = _OBJECT.findall(text)
    found = _COUNT.findall(objects[-1] if objects else text)
    if not found and not objects:
        return None
    counts = {" ".join(keyword.split()): int(number) for keyword, number in found}
    return tuple((keyword, count) for keyword, count in counts.items() if count)


def shown_counts(counts: Counts) -> str:
    """Counts as text, such as ``Chile: 2, Peru: 1``."""
    return ", ".join(f"{keyword}: {count}" for keyword, count in counts) or "none"


_SENTENCES = (
    "The ship left {a} with tea and reached {b} in spring.",
    "In {a} we ate better than in {b}, my sister said.",
    "Nobody in the village had ever been to {a}.",
    "A letter from {a} lay on the table when the guests from {b} came.",
    "Between {a} and {b} the train stops only once.",
    "She had read three books about {a}, and {a} was all she talked of.",
    "It rained all week, so we stayed at home and played cards.",
    "The map showed {a} in green, {b} in yellow and {c} in red.",
    "He sells carpets from {a} and lamps from {b}.",
    "Two of the players were born in {a}, one in {b}.",
    "The old clock in the hall has stood still for years.",
    "From {a} they went on to {b}, and home by way of {c}.",
)


def random_text(num_sentences: int, rng: random.Random, num_countries: int = 8) -> str:
    """A text of so many sentences that names countries, some of them again and again.

    Args:
        num_sentences: How many.
        rng: What is chosen.
        num_countries: How many different countries there are at most; 3 at least.
    """
    known = rng.sample(COUNTRIES, max(3, num_countries))
    sentences = []
    for _ in range(num_sentences):
        a, b, c = rng.sample(known, 3)
        sentences.append(rng.choice(_SENTENCES).format(a=a, b=b, c=c))
    return " ".join(sentences)


# ------------------------------------------------------------------------------------------------ prompts

_EXAMPLE = 'Text: We flew from Peru to Chile. Chile was cold.\nCounts: {"Peru": 1, "Chile": 2}\n\n'
_WHAT = "how often the text names each of these: {keywords}"
_COUNTRIES_WHAT = "how often the text names each country"


def _asked(state: Passage) -> str:
    if state.keywords == COUNTRIES:
        return _COUNTRIES_WHAT
    return _WHAT.format(keywords=", ".join(state.keywords))


def _as_json(counts: Counts | None) -> str:
    return "{" + ", ".join(f'"{keyword}": {count}' for keyword, count in counts or ()) + "}"


def _ask(state: Passage) -> str:
    text = " ".join(state.sentences)
    if state.answer is None:
        return f"Count {_asked(state)}. Write the counts as JSON and nothing else.\n\n{_EXAMPLE}Text: {text}\nCounts:"
    return (
        f"The counts should say {_asked(state)}, but they have mistakes. Correct them. Write the corrected counts as "
        "JSON and nothing else.\n\nText: We flew from Peru to Chile. Chile was cold.\n"
        'With mistakes: {"Peru": 2, "Chile": 1}\nCorrected: {"Peru": 1, "Chile": 2}\n\n'
        f"Text: {text}\nWith mistakes: {_as_json(state.answer)}\nCorrected:"
    )


def _ask_to_reason(state: Passage) -> str:
    return (
        f"Count {_asked(state)}. Go through the text sentence by sentence, one on a line, and write down what each "
        "names; then write the counts as JSON on the last line.\n\n"
        "Text: We flew from Peru to Chile. Chile was cold.\nFirst sentence: Peru, Chile\nSecond sentence: Chile\n"
        f'Counts: {{"Peru": 1, "Chile": 2}}\n\nText: {" ".join(state.sentences)}\n'
    )


def _ask_to_merge(states: tuple[Passage, ...]) -> str:
    first, second = (_as_json(state.answer) for state in states)
    return (
        "Add up the counts of the two lists. Write the sums as JSON and nothing else.\n\n"
        'First: {"Peru": 1, "Chile": 2}\nSecond: {"Chile": 1, "Cuba": 1}\n'
        'Sums: {"Peru": 1, "Chile": 3, "Cuba": 1}\n\n'
        f"First: {first}\nSecond: {second}\nSums:"
    )


TASK = Task(
    name="keyword_count",
    items="sentences",
    part_size=4,
    ask=_ask,
    ask_to_reason=_ask_to_reason,
    ask_to_merge=_ask_to_merge,
    names=("count", "list_and_count", "add_up"),
    read=read_counts,
    what="counts",
    num_errors=lambda state: num_errors(" ".join(state.sentences), state.keywords, dict(state.answer)),
)


# ------------------------------------------------------------------------------------------------ the program


def keyword_count(
    *,
    method: Method = "got",
    keywords: str | None = None,
    num_samples: int | None = None,
    part_size: int | None = None,
    max_depth: int | None = None,
    max_tries: int | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Count how often a text names countries, or keywords of your own, by a model that makes mistakes.

    Args:
        method: ``io`` (the counts at once), ``cot`` (sentence by sentence first), ``tot`` (many counts, the best
            improved, level by level) or ``got`` (the text in parts, whose counts are added up).
        keywords: What is counted, separated by commas; countries by default.
        num_samples: Counts drawn each time, of which the best is kept (default: io and cot 1, tot 10, got 5).
        part_size: Most sentences in a part (got; default 4).
        max_depth: Levels: the first counts, the others improve (tot; default 3).
        max_tries: Improvements of counts that have errors; 0 does without (got; default 3).
        temperature: Of everything that is drawn.
        max_tokens: Longest reply, in the model's tokens.
    """
    wanted = (
        COUNTRIES if keywords is None else tuple(dict.fromkeys(w.strip() for w in keywords.split(",") if w.strip()))
    )
    if not wanted:
        raise OptionError(f"keywords={keywords!r}; allowed are words separated by commas, such as 'tea, coffee'")
    return divide_and_merge(
        TASK,
        start=lambda text: Passage(sentences=parse_text(text), keywords=wanted),
        method=method,
        num_samples=num_samples,
        part_size=part_size,
        max_depth=max_depth,
        max_tries=max_tries,
        temperature=temperature,
        max_tokens=max_tokens,
    )
