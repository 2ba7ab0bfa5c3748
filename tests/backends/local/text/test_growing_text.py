from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.text.growing_text import GrowingText

PUZZLES = PuzzleTokenizer()
ACCENTS = list("aé√𝄞 \ufffd".encode())


def read_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def prefixes_and_others(tokens: list[int], changes: list[tuple[int, int]]) -> list[list[int]]:
    """``tokens`` as they grow by one, now and then by several, with some replaced on the way."""
    states = []
    for end in range(len(tokens) + 1):
        for place, token in changes:
            if place == end and place:
                tokens = [*tokens[: place // 2], token, *tokens[place // 2 + 1 :]]
        if end % 4 != 3:
            states.append(tokens[:end])
    return states


@given(
    st.lists(st.sampled_from(ACCENTS), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ACCENTS)), max_size=3),
)
@example(list("é𝄞√é".encode()), [])
def test_bytes_read_as_they_do_as_a_whole(tokens: list[int], changes: list[tuple[int, int]]) -> None:
    growing = GrowingText(read_bytes)
    for state in prefixes_and_others(tokens, changes):
        assert growing(state) == read_bytes(state)


IDS = st.integers(0, PUZZLES.vocab_size - 1)
OFTEN = st.sampled_from([*range(40)])  # the specials, the words, the line break, the end


@given(st.lists(IDS | OFTEN, max_size=30), st.lists(st.tuples(st.integers(0, 30), OFTEN), max_size=3))
def test_words_read_as_they_do_as_a_whole(tokens: list[int], changes: list[tuple[int, int]]) -> None:
    growing = GrowingText(PUZZLES.decode)
    for state in prefixes_and_others(tokens, changes):
        assert growing(state) == PUZZLES.decode(state)


@given(st.lists(IDS | OFTEN, max_size=30))
def test_it_reads_behind_a_prefix(tokens: list[int]) -> None:
    prefix = PUZZLES.encode_text("13 - 9 =")
    before = len(PUZZLES.decode(prefix))

    def read(tokens: Sequence[int]) -> str:
        return PUZZLES.decode((*prefix, *tokens))[before:]

    growing = GrowingText(read)
    for state in prefixes_and_others(tokens, []):
        assert growing(state) == read(state)


def test_a_long_reply_is_decoded_a_few_tokens_at_a_time() -> None:
    decoded = []

    def read(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return read_bytes(tokens)

    growing = GrowingText(read)
    text = "é 𝄞!" * 200
    whole = list(text.encode())
    for end in range(len(whole) + 1):
        growing(whole[:end])
    assert growing(whole) == text
    assert max(decoded) < 12


def test_a_tokenizer_whose_text_changes_from_its_beginning_is_read_as_a_whole() -> None:
    def read(tokens: Sequence[int]) -> str:
        return f"{len(tokens)}: {read_bytes(tokens)}"

    growing = GrowingText(read)
    for text in (b"a", b"ab", b"abc", b"abcd" * 30):
        assert growing(list(text)) == read(text)
