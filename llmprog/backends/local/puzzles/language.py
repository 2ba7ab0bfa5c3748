"""The language of the embedded model: its vocabulary, its completions as text, and the prompts it recognises.

The wire text is what a large model would be asked too. The tokenizer reads the last lines of a prompt, and of the text
above them only the target and, for evaluations, the wish to have the numbers judged::

    propose     Input: 4 9 10 13 / Possible next steps:              13 - 9 = 4 (left: 4 4 10)  ...
    evaluate    Evaluate ... / 4 6                                    4 6: 10 no, 2 no, 24 yes, x no / sure
                Evaluate ... / 5 6 6                                  5 6 | 6: 30 18 144 4: 11 no, ... / ... / sure
    cot         Input: 4 9 10 13 / Steps:                             three steps / Answer: (13 - 9) * (10 - 4) = 24
    io          Input: 4 9 10 13 / Answer:                            (13 - 9) * (10 - 4) = 24
    arithmetic  Question: What is (17 + 25) * 3 - 40? / Reasoning:    17 + 25 = 42 / ... / Answer: 86
    sudoku      1 . . 4 / . . 1 . / ... / Solution:                   the full grid, four lines

In front of the model a prompt is ``<mode> <task> target numbers``; for propose the number of lines wanted stands
before the numbers, and the last line ends with ``<eos>`` in place of a newline, so that K lines fill K equal blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from llmprog.backends.local.options import DecoderName, LocalOptions
from llmprog.backends.local.puzzles.moves import LARGEST_NUMBER
from llmprog.backends.local.text.language import EncodedPrompt
from llmprog.errors import InputError, OptionError
from llmprog.types import Prompt

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Vocabulary

Task = Literal["propose", "evaluate", "cot", "io", "arithmetic", "sudoku"]
TASKS: tuple[Task, ...] = ("propose", "evaluate", "cot", "io", "arithmetic", "sudoku")
MODES = ("ar", "diffusion", "hybrid")
FURTHER_MODES = ("uniform", "block", "hybrid_a")
"""Modes of the second weights only (docs/decisions/0009); their tokens come last, so that no other id differs."""
_MODE_OF_DECODER: dict[DecoderName, str] = {
    "autoregressive": "ar",
    "masked_diffusion": "diffusion",
    "block_diffusion": "block",
    "hybrid": "hybrid",
    "uniform_diffusion": "uniform",
    "mdlm": "diffusion",
    "score_entropy": "diffusion",
}
DEFAULT_TARGET = 24
DEFAULT_LINES = 4
MAX_LINES = 8
MAX_NUMBERS = 6
MAX_OPERATIONS = 5

_SPECIALS = ("<pad>", "<eos>", "<mask>", *(f"<{mode}>" for mode in MODES), *(f"<{task}>" for task in TASKS))
_WORDS = (
    *("+", "-", "*", "/", "=", "(", ")", "(left:", "\n", "|", ":", ".", "x"),
    *("no", "near", "yes", "no,", "near,", "yes,", "sure", "likely", "impossible", "Answer:"),
)
_LEXER = re.compile(r"\d+|\(left:|Answer:|(?:no|near|yes),?|sure|likely|impossible|x\b|[-+*/=()|:.\n]")
_NO_SPACE_BEFORE = frozenset({")", ":", "\n"})
_NO_SPACE_AFTER = frozenset({"(", "\n"})

_TARGET = re.compile(
    r"(?:\btarget\b\s*(?:is|:|=)?|\b(?:reach|obtain|make|get|gives?|equals?|equal to))\s*(\d+)\b", re.IGNORECASE
)
_JUDGE = re.compile(r"evaluat|judge|can (?:they |it )?reach|sure\s*/\s*likely", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:Input:\s*)?(\d+(?:[\s,]+\d+)*)\s*", re.IGNORECASE)
_PROPOSE = re.compile(r"Possible next (?:(\d+) )?steps:", re.IGNORECASE)
_QUESTION = re.compile(r"(?:Question:\s*)?What is (.+?)\s*\?", re.IGNORECASE)
_GRID_LINE = re.compile(r"\s*([1-4.])\s+([1-4.])\s+([1-4.])\s+([1-4.])\s*")

_PUZZLES_ONLY = (
    "the embedded model `local:puzzles` knows number puzzles and arithmetic only; for other questions name another "
    "backend, such as local:smollm2 or openai:MODEL"
)
_HELP = (
    f"{_PUZZLES_ONLY}. It understands prompts that end with `Input: 4 9 10 13 / Possible next steps:`, "
    "`Input: 4 9 10 13 / Steps:`, `Input: 4 9 10 13 / Answer:`, `Question: What is (17 + 25) * 3 - 40? / Reasoning:`, "
    "four lines such as `1 . . 4` and `Solution:`, or, where the text above asks to evaluate or judge them, numbers "
    "alone; `/` is a line break, and the target is the last `Target: N` or `reach N` (default 24)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PuzzlePrompt:
    """A prompt as the model sees it.

    Attributes:
        tokens: The prompt's tokens without the mode token, which the decoder puts in front.
        task: What is asked.
        canvas_length: Tokens of the completion for decoders that fill a canvas; a multiple of ``block_length``.
        block_length: Natural block: one line of the completion where lines are equal.
    """

    tokens: tuple[int, ...]
    task: Task
    canvas_length: int
    block_length: int


class PuzzleTokenizer:
    """Text to tokens and back, one token for each number 0..200.

    Attributes:
        vocab_size: Number of token ids.
        never_sampled: Ids that no decoder may choose: mask, padding, modes and tasks.
    """

    def __init__(self, *, further_modes: bool = False) -> None:
        """The tokenizer of the first weights, or of those that know the ``FURTHER_MODES`` too."""
        words = (*_SPECIALS, *_WORDS, *(str(n) for n in range(LARGEST_NUMBER + 1)))
        further = tuple(f"<{mode}>" for mode in FURTHER_MODES) if further_modes else ()
        self.words: tuple[str, ...] = (*words, *further)
        self._ids = {word: index for index, word in enumerate(self.words)}
        self.vocab_size = len(self.words)
        self.pad_id, self.eos_id, self.mask_id = (self._ids[word] for word in _SPECIALS[:3])
        self.ar_id, self.diffusion_id, self.hybrid_id = (self._ids[f"<{mode}>"] for mode in MODES)
        self.newline_id = self._ids["\n"]
        specials = (*range(len(_SPECIALS)), *range(len(words), self.vocab_size))
        self.never_sampled = tuple(i for i in specials if i != self.eos_id)

    @classmethod
    def of(cls, vocab_size: int) -> PuzzleTokenizer:
        """The tokenizer of weights with this many tokens."""
        return cls(further_modes=vocab_size > cls().vocab_size)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids that decoders have to know."""
        from llmprog.backends.local.decoders.base import Vocabulary

        return Vocabulary(
            size=self.vocab_size,
            mask_id=self.mask_id,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
            never_sampled=self.never_sampled,
        )

    def encode(self, prompt: Prompt, options: LocalOptions) -> EncodedPrompt:
        """A prompt with its mode token; see ``encode_prompt``."""
        found = self.encode_prompt("\n".join(message.content for message in prompt.messages), lines=options.lines)
        return EncodedPrompt(
            tokens=(self.mode_token(options), *found.tokens),
            canvas_length=found.canvas_length,
            block_length=options.block_length or found.block_length,
        )

    def mode_token(self, options: LocalOptions) -> int:
        """The id of the token that stands before a prompt, by the decoder that is to answer it; see ``mode_id``."""
        return self.mode_id(_mode_of(options))

    def mode_id(self, mode: str) -> int:
        """The id of the token that names one of ``MODES`` or ``FURTHER_MODES``.

        Raises:
            OptionError: These weights do not know it.
        """
        try:
            return self._ids[f"<{mode}>"]
        except KeyError:
            raise OptionError(
                f"these weights of {self.vocab_size} tokens were not trained on the mode {mode!r}; "
                "it takes weights that `python -m llmprog.backends.local.puzzles.train_further` made"
            ) from None

    def word(self, token: int) -> str:
        """The text of one token."""
        return self.words[token]

    def id_of(self, word: str) -> int:
        """The id of one vocabulary word."""
        return self._ids[word]

    def number_id(self, number: int) -> int:
        """The id of a number in 0..200."""
        return self._ids["0"] + number

    def encode_text(self, text: str) -> list[int]:
        """Completion text to tokens.

        Raises:
            InputError: ``text`` holds something outside the vocabulary.
        """
        tokens: list[int] = []
        end = 0
        for match in _LEXER.finditer(text):
            gap = text[end : match.start()]
            token = self._ids.get(match.group())
            if token is None or gap.strip():
                raise self._unknown(gap.strip() or match.group())
            tokens.append(token)
            end = match.end()
        if text[end:].strip():
            raise self._unknown(text[end:].strip())
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ``tokens`` up to the first ``<eos>``; padding and other special tokens are left out."""
        parts: list[str] = []
        before = "\n"
        for token in tokens:
            if token == self.eos_id:
                break
            word = self.words[token]
            if token in self.never_sampled:
                continue
            if before not in _NO_SPACE_AFTER and word not in _NO_SPACE_BEFORE:
                parts.append(" ")
            parts.append(word)
            before = word
        return "".join(parts)

    def encode_prompt(self, text: str, *, lines: int | None = None) -> PuzzlePrompt:
        """Recognise a prompt by its last lines.

        Args:
            text: The whole prompt; preamble and examples above the last lines are allowed.
            lines: How many lines a proposal has at most, 1..8; ``None`` takes it from the prompt (default 4).

        Raises:
            InputError: The prompt is none of those the model knows.
        """
        rows = [row.strip() for row in text.splitlines() if row.strip()]
        last = rows[-1] if rows else ""
        above = rows[-2] if len(rows) > 1 else ""
        propose = _PROPOSE.fullmatch(last)
        if propose:
            wanted = lines if lines is not None else int(propose[1] or DEFAULT_LINES)
            return self.propose_prompt(self._numbers(above), self._target(rows[:-1]), max(1, min(MAX_LINES, wanted)))
        keyword = last.rstrip(":").lower()
        if keyword == "steps":
            return self.cot_prompt(self._numbers(above), self._target(rows[:-1]))
        if keyword == "answer":
            return self.io_prompt(self._numbers(above), self._target(rows[:-1]))
        if keyword == "reasoning":
            question = _QUESTION.fullmatch(above)
            if question:
                return self.arithmetic_prompt(question[1])
            raise InputError(f"{above[:80]!r} is not a question such as 'What is (17 + 25) * 3 - 40?': {_PUZZLES_ONLY}")
        if keyword == "solution" and len(rows) > 4:
            cells = [_GRID_LINE.fullmatch(row) for row in rows[-5:-1]]
            if all(cells):
                return self.sudoku_prompt([cell for match in cells if match for cell in match.groups()])
        if _NUMBERS.fullmatch(last) and any(_JUDGE.search(row) for row in rows[:-1]):
            return self.evaluate_prompt(self._numbers(last), self._target(rows))
        raise InputError(f"prompt ending with {last!r} is not recognised: {_HELP}")

    def propose_prompt(self, numbers: Sequence[int], target: int, lines: int) -> PuzzlePrompt:
        """Ask for up to ``lines`` next steps."""
        block = line_length(len(numbers))
        head = (target, lines)
        return self._number_prompt("propose", head, numbers, block * lines, block)

    def evaluate_prompt(self, numbers: Sequence[int], target: int) -> PuzzlePrompt:
        """Ask for a verdict; three and two numbers are reasoned about."""
        canvas, block = {3: (60, 20), 2: (14, 7)}.get(len(numbers), (2, 2))
        return self._number_prompt("evaluate", (target,), numbers, canvas, block)

    def cot_prompt(self, numbers: Sequence[int], target: int) -> PuzzlePrompt:
        """Ask for all steps and the expression."""
        count = len(numbers)
        steps = sum(line_length(n) for n in range(2, count + 1))
        block = 15 if count > 3 else 10
        return self._number_prompt(
            "cot", (target,), numbers, _round_up(steps + expression_length(count) + 2, block), block
        )

    def io_prompt(self, numbers: Sequence[int], target: int) -> PuzzlePrompt:
        """Ask for the expression alone."""
        length = expression_length(len(numbers)) + 1
        return self._number_prompt("io", (target,), numbers, length, length)

    def arithmetic_prompt(self, question: str) -> PuzzlePrompt:
        """Ask for the value of an expression, step by step."""
        tokens = self.encode_text(question)
        operations = sum(self.words[token] in "+-*/" for token in tokens)
        if not 1 <= operations <= MAX_OPERATIONS:
            raise InputError(
                f"question {question!r} has {operations} operations; the embedded model takes 1..{MAX_OPERATIONS}"
            )
        return PuzzlePrompt(
            tokens=(self._ids["<arithmetic>"], *tokens),
            task="arithmetic",
            canvas_length=6 * (operations + 1),
            block_length=6,
        )

    def sudoku_prompt(self, cells: Sequence[str]) -> PuzzlePrompt:
        """Ask for the full grid; ``cells`` are the 16 cells, ``.`` where empty."""
        tokens = (self._ids["<sudoku>"], *(self._ids[cell] for cell in cells))
        return PuzzlePrompt(tokens=tokens, task="sudoku", canvas_length=20, block_length=20)

    def _number_prompt(
        self, task: Task, head: tuple[int, ...], numbers: Sequence[int], canvas: int, block: int
    ) -> PuzzlePrompt:
        least = 1 if task == "evaluate" else 2
        if not least <= len(numbers) <= MAX_NUMBERS or not all(0 <= n <= LARGEST_NUMBER for n in (*numbers, head[0])):
            raise InputError(
                f"{task} of {' '.join(map(str, numbers))!r} with target {head[0]}: the embedded model takes "
                f"{least}..{MAX_NUMBERS} whole numbers and a target, all in 0..{LARGEST_NUMBER}"
            )
        tokens = (self._ids[f"<{task}>"], *(self.number_id(n) for n in (*head, *sorted(numbers))))
        return PuzzlePrompt(tokens=tokens, task=task, canvas_length=canvas, block_length=block)

    def _numbers(self, row: str) -> list[int]:
        match = _NUMBERS.fullmatch(row)
        if not match:
            raise InputError(f"expected a line such as 'Input: 4 9 10 13', found {row!r}: {_HELP}")
        return [int(number) for number in re.findall(r"\d+", match[1])]

    def _target(self, rows: Sequence[str]) -> int:
        found = _TARGET.findall("\n".join(rows))
        return int(found[-1]) if found else DEFAULT_TARGET

    def _unknown(self, text: str) -> InputError:
        return InputError(
            f"{text[:40]!r} is not in the embedded model's vocabulary "
            f"(numbers 0..{LARGEST_NUMBER}, + - * / and its own words): {_PUZZLES_ONLY}"
        )


def needs_further_modes(options: LocalOptions) -> bool:
    """Whether a decoder is asked for that only the second weights were trained for."""
    return _mode_of(options) in FURTHER_MODES


def _mode_of(options: LocalOptions) -> str:
    """Autoregressive unless said otherwise."""
    if options.decoder == "hybrid" and options.variant == "a":
        return "hybrid_a"
    return _MODE_OF_DECODER[options.decoder or "autoregressive"]


def line_length(count: int) -> int:
    """Tokens of one step line from a state of ``count`` numbers, newline included."""
    return count + 7


def expression_length(count: int) -> int:
    """Most tokens of ``expression = target`` over ``count`` numbers."""
    return count + (count - 1) + 2 * max(0, count - 2) + 2


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
