"""A text of any length, summarised in calls of bounded length: split, summarise, join, again until it fits.

Schlag et al. 2023 (arXiv 2305.05364) name summaries of long texts as a program whose every call sees a part that fits.
Chunks end where sentences end, and together they are the text, letter for letter. What a model writes is cut to the
length it was given, so each round leaves at most about half of the text, whatever the model does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmprog.combinators import Apply, Branch, Loop, Map, Sequence
from llmprog.errors import InputError, OptionError
from llmprog.nodes import generator
from llmprog.program import Program
from llmprog.search import BestOfN

BYTES_PER_TOKEN = 3
"""How long a token is taken to be. English has four to five letters a token with the usual tokenizers, so that this
counts too many rather than too few; what is not in the Latin alphabet takes two to four bytes a letter."""

_MAX_BYTES = 50_000_000
_MAX_ROUNDS = 64  # each leaves at most three quarters of a text: more than the longest one takes
_SMALLEST_SUMMARY = 8
_MIN_RATIO = 4  # of a chunk to a summary; from there on every round is sure to shorten the text
# A sentence ends with its closing marks and the space after them; a blank line ends one, too. A row of marks is looked
# at once, from its beginning, so that a hostile text takes linear time.
_SENTENCE = re.compile(r".*?(?:(?<![.!?…。！？])[.!?…。！？]++[\"'”’)\]]*+(?:\s++|\Z)|\n\s*\n|\Z)", re.DOTALL)
_WORD = re.compile(r"\S*\s*")

_PART_PROMPT = (
    "Summarise this part of a longer text in at most {max_words} words. Keep names, numbers and what happens; "
    "add nothing."
)
_WHOLE_PROMPT = "Summarise this text in at most {max_words} words. Keep what matters most; add nothing."
MAX_TRIES = 3
"""How often a text is given to a model that replies with nothing."""


def estimated_tokens(text: str) -> int:
    """How many tokens a text is taken to have: its bytes in UTF-8 by three, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with the space after it; together they are the text."""
    return [match[0] for match in _SENTENCE.finditer(text) if match[0]]


def split_text(text: str, max_tokens: int) -> list[str]:
    """Chunks of at most ``max_tokens`` estimated tokens, which together are the text.

    They end where sentences end; a sentence that is too long by itself is split between words, and a word that is
    too long, between letters. Each chunk takes in as much as fits.

    Raises:
        OptionError: ``max_tokens`` is below 2: not every letter fits into one token.
    """
    if max_tokens < 2:
        raise OptionError(f"split_text: max_tokens={max_tokens!r}; allowed is a whole number >= 2")
    chunks: list[str] = []
    for piece in _pieces(text, max_tokens * BYTES_PER_TOKEN):
        if chunks and estimated_tokens(chunks[-1] + piece) <= max_tokens:
            chunks[-1] += piece
        else:
            chunks.append(piece)
    return chunks


def _pieces(text: str, max_bytes: int) -> Iterator[str]:
    """Sentences; where one has more than ``max_bytes``, its words; where one of these has, as many letters as fit."""
    for sentence in sentences_of(text):
        if _size(sentence) <= max_bytes:
            yield sentence
            continue
        for match in _WORD.finditer(sentence):
            yield from _letters(match[0], max_bytes)


def _letters(word: str, max_bytes: int) -> Iterator[str]:
    """``word`` in parts of as many letters as fit."""
    data = word.encode("utf-8", "surrogatepass")
    start = 0
    while start < len(data):
        end = min(len(data), start + max_bytes)
        while end < len(data) and (data[end] & 0xC0) == 0x80:  # in the middle of a letter
            end -= 1
        yield data[start:end].decode("utf-8", "surrogatepass")
        start = end


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def shortened(text: str, max_tokens: int) -> str:
    """The beginning of a text, as many sentences as fit into ``max_tokens``, or words if the first does not."""
    text = text.strip()
    return split_text(text, max_tokens)[0].strip() if text else ""


def most_calls(num_tokens: int, chunk_tokens: int, summary_tokens: int) -> int:
    """The most summaries that a text of so many estimated tokens takes, whatever its sentences and the model's replies.

    Two chunks side by side hold more than one holds alone, so there are at most ``2 * tokens / chunk_tokens + 1`` of
    them, and so many summaries (with a space each) make the text of the next round.
    """
    calls = 1
    while num_tokens > chunk_tokens:
        num_chunks = 2 * num_tokens // chunk_tokens + 1
        calls += num_chunks
        num_tokens = num_chunks * (summary_tokens + 1)
    return calls


def read_text(given: str | Path) -> str:
    """The text to summarise, given itself or as the path of a file.

    Raises:
        InputError: There is none, or it is too long.
    """
    text = str(given)
    if "\n" not in text and len(text) < 1000 and text.endswith((".txt", ".md")):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"recursive_summary: the file {text!r} cannot be read: {error}") from error
    if not text.strip() or _size(text) > _MAX_BYTES:
        raise InputError(
            f"recursive_summary: a text of {_size(text)} bytes; allowed are 1 to {_MAX_BYTES:,}, not blank, or the "
            "path of a .txt or .md file"
        )
    return text


@dataclass(frozen=True, slots=True)
class Summary:
    """A text that fits, and its summary; empty before there is one."""

    text: str
    summary: str = ""

    def __str__(self) -> str:
        return self.summary or self.text


def _summariser(name: str, prompt: str, max_tokens: int, temperature: float) -> Program:
    asked = prompt.format(max_words=max_tokens // 2)

    @generator(prompt=f"{asked}\n\n{{text}}\n\nSummary:\n", name=name, temperature=temperature, max_tokens=max_tokens)
    def summarise(state: Summary, completion: str) -> Iterable[Summary]:
        summary = shortened(completion, max_tokens)
        return [Summary(state.text, summary)] if summary else []

    return Program(
        name=name,
        start=Summary,
        generators=[summarise],
        controller=BestOfN(num_samples=MAX_TRIES, batch_size=1),
        goal=_has_summary,  # one that is cut at its longest is a summary, too
        answer=_summary,
        explain=_explain,
    )


def _has_summary(state: Summary) -> bool:
    return bool(state.summary)


def _summary(state: Summary) -> str:
    return state.summary


def _explain(state: Summary) -> str:
    return f"the model replied with nothing, {MAX_TRIES} times, to the text that begins {state.text[:60]!r}"


def recursive_summary(
    *,
    chunk_tokens: int = 1500,
    summary_tokens: int = 200,
    temperature: float = 0.3,
    concurrency: int | None = None,
) -> Program:
    """Summarise a text of any length: split it to fit, summarise the parts, join them, and again.

    Args:
        chunk_tokens: Longest text that is shown at once, in estimated tokens; the prompt around it is short.
        summary_tokens: Longest summary of a part, and of the whole; at most a quarter of ``chunk_tokens``.
        temperature: Of the summaries.
        concurrency: Parts summarised at once; as many as the run allows by default.
    """
    if summary_tokens < _SMALLEST_SUMMARY or chunk_tokens < _MIN_RATIO * summary_tokens:
        raise OptionError(
            f"chunk_tokens={chunk_tokens!r}, summary_tokens={summary_tokens!r}; allowed are summary_tokens >= "
            f"{_SMALLEST_SUMMARY} and chunk_tokens >= {_MIN_RATIO} * summary_tokens: each round has to shorten the text"
        )

    def fits(text: str) -> bool:
        return estimated_tokens(text) <= chunk_tokens

    def split(text: str) -> list[str]:
        return split_text(text, chunk_tokens)

    part = _summariser("summarise_part", _PART_PROMPT, summary_tokens, temperature)
    shorten = Sequence(Apply(split), Map(part, concurrency=concurrency), Apply(_joined, name="join"), name="shorten")
    once = Branch(fits, {True: Apply(_as_it_is, name="keep"), False: shorten}, name="once")
    return Sequence(
        Apply(read_text, name="read"),
        Loop(once, until=fits, max_rounds=_MAX_ROUNDS, name="rounds"),
        _summariser("summarise", _WHOLE_PROMPT, summary_tokens, temperature),
        name="recursive_summary",
    )


def _joined(summaries: list[str]) -> str:
    return "\n".join(summaries)


def _as_it_is(text: str) -> str:
    return text
