"""BM25: which of some documents a few words are about, by words alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from llmprog.errors import OptionError

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case; nothing is stemmed or left out."""
    return _WORD.findall(text.casefold())


class BM25Index:
    """An index of documents, ranked by Okapi BM25 (Robertson and Zaragoza 2009, equation 3.15).

    A word's weight is ``log(1 + (N - n + 0.5) / (n + 0.5))`` for n of N documents that hold it: the form that is never
    negative.

    Args:
        documents: Their texts.
        k1: How soon more of the same word counts no more; 0 or more.
        b: How much long documents are discounted; from 0 to 1.

    Raises:
        OptionError: ``k1`` or ``b`` is out of range.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        if not k1 >= 0 or not 0 <= b <= 1:
            raise OptionError(f"BM25Index: k1={k1!r}, b={b!r}; allowed are k1 >= 0 and 0 <= b <= 1")
        self._k1 = k1
        counts = [Counter(words_of(text)) for text in documents]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
        self._norms = [k1 * (1 - b + b * length / mean) for length in lengths]
        self._holders: dict[str, list[tuple[int, int]]] = {}
        for number, count in enumerate(counts):
            for word, times in count.items():
                self._holders.setdefault(word, []).append((number, times))

    def __len__(self) -> int:
        return len(self._norms)

    def scores(self, query: str) -> list[float]:
        """The score of every document, in their order; 0 for one that shares no word with the query."""
        found = [0.0] * len(self)
        for word in words_of(query):
            holders = self._holders.get(word, [])
            weight = math.log1p((len(self) - len(holders) + 0.5) / (len(holders) + 0.5))
            for number, times in holders:
                found[number] += weight * times * (self._k1 + 1) / (times + self._norms[number])
        return found

    def search(self, query: str, limit: int = 3) -> list[tuple[int, float]]:
        """The best ``limit`` documents that share a word with the query, and their scores; equal ones in order."""
        scores = self.scores(query)
        ranked = sorted((number for number, score in enumerate(scores) if score > 0), key=lambda n: -scores[n])
        return [(number, scores[number]) for number in ranked[:limit]]
