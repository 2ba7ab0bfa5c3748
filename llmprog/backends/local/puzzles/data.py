"""Training examples of the embedded model: random, seeded, endless, and only from the training split.

Every example is a prompt and a completion that fills its canvas; ``<eos>`` fills what is left over. Numbers in prompts
come from four-number puzzles of the training split and from the states legal steps lead to; a held-out state is
never a prompt, and no chain of thought passes through one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations, product
from typing import Any

from llmprog.backends.local.puzzles.language import (
    DEFAULT_TARGET,
    MAX_LINES,
    PuzzlePrompt,
    PuzzleTokenizer,
    Task,
)
from llmprog.backends.local.puzzles.moves import (
    LARGEST_NUMBER,
    OPERATORS,
    Move,
    State,
    apply,
    expression,
    legal_moves,
    reachable_numbers,
    solutions,
    verdict,
)
from llmprog.backends.local.puzzles.split import Split, split_of_numbers, split_of_text

Shape = tuple[int, int, int]

MIXTURE: dict[str, float] = {
    "propose4": 20.0,
    "propose3": 14.0,
    "propose2": 10.0,
    "propose5": 1.0,
    "evaluate3": 28.0,
    "evaluate2": 12.0,
    "evaluate1": 4.0,
    "evaluate4": 1.5,
    "cot4": 12.0,
    "cot3": 4.0,
    "io4": 2.0,
    "arithmetic": 9.0,
    "sudoku": 5.0,
}
"""Relative number of examples of each kind."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the completion the model is to write.

    Attributes:
        task: What is asked.
        prompt: Prompt tokens without the mode token.
        canvas: Completion tokens, filled up to the canvas length with ``<eos>``.
        block_length: Natural block of the canvas.
    """

    task: Task
    prompt: tuple[int, ...]
    canvas: tuple[int, ...]
    block_length: int

    @property
    def shape(self) -> Shape:
        """Lengths of prompt, canvas and block: examples of one shape form a batch without padding."""
        return len(self.prompt), len(self.canvas), self.block_length


class ExampleStream:
    """An endless stream of examples of one split.

    Args:
        seed: Fixes every draw.
        split: Which puzzles prompts come from; the trainer uses ``train`` only.
        mixture: Relative number of examples of each kind; ``None`` is ``MIXTURE``.
    """

    def __init__(self, seed: int, split: Split = "train", mixture: dict[str, float] | None = None) -> None:
        self.tokenizer = PuzzleTokenizer()
        self.random = random.Random(seed)
        self.split = split
        self.waiting: dict[Shape, list[Example]] = defaultdict(list)
        chosen = mixture if mixture is not None else MIXTURE
        self.kinds = tuple(chosen)
        self.weights = tuple(chosen.values())

    def __iter__(self) -> Iterator[Example]:
        """Examples without end."""
        while True:
            yield self.draw(self.random.choices(self.kinds, self.weights)[0])

    def next_batch(self, tokens_per_batch: int) -> list[Example]:
        """The next examples of one shape that together hold ``tokens_per_batch`` tokens or just over."""
        while True:
            example = self.draw(self.random.choices(self.kinds, self.weights)[0])
            batch = self.waiting[example.shape]
            batch.append(example)
            if len(batch) * (1 + len(example.prompt) + len(example.canvas)) >= tokens_per_batch:
                del self.waiting[example.shape]
                return batch

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, as plain containers."""
        waiting = [[(e.task, e.prompt, e.canvas, e.block_length) for e in batch] for batch in self.waiting.values()]
        return {"random": self.random.getstate(), "waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        version, internal, gauss = state["random"]
        self.random.setstate((version, tuple(internal), gauss))
        self.waiting = defaultdict(list)
        for batch in state["waiting"]:
            examples = [Example(task, tuple(prompt), tuple(canvas), block) for task, prompt, canvas, block in batch]
            self.waiting[examples[0].shape] = examples

    def draw(self, kind: str) -> Example:
        """One example of a kind of ``MIXTURE``."""
        if kind == "arithmetic":
            return self.arithmetic()
        if kind == "sudoku":
            return self.sudoku()
        name, count = kind[:-1], int(kind[-1])
        if name == "propose":
            return self.propose(count)
        if name == "evaluate":
            return self.evaluate(count)
        return self.solve(name, count)

    def puzzle(self, count: int = 4) -> State:
        """``count`` ascending numbers of this split: mostly 1..13, otherwise 1..25."""
        while True:
            largest = 13 if self.random.random() < 0.65 else 25
            state = tuple(sorted(self.random.randint(1, largest) for _ in range(count)))
            if split_of_numbers(state) == self.split:
                return state

    def state(self, count: int) -> State:
        """A state of ``count`` numbers that legal steps reach from a puzzle of this split, itself of this split."""
        if count >= 4:
            return self.puzzle(count)
        while True:
            state = self.puzzle(4)
            while len(state) > count:
                moves = [m for m in legal_moves(state) if len(m.left) != 3 or split_of_numbers(m.left) == self.split]
                if not moves:
                    break
                state = self.random.choice(moves).left
            else:
                return state

    def target(self, state: State) -> int:
        """24 for the most part; otherwise a number near what ``state`` can reach."""
        if self.random.random() < 0.72:
            return DEFAULT_TARGET
        if self.random.random() < 0.5:
            return self.random.randint(1, 100)
        while len(state) > 1:
            state = self.random.choice(legal_moves(state)).left
        return min(100, max(1, state[0] + self.random.choice((-1, 0, 0, 1))))

    def propose(self, count: int) -> Example:
        """Some of the legal steps, each as likely as any other, in random order."""
        state = self.state(count)
        lines = self.random.choice((1, 2, 3, 4, 4, 4, 5, 6, 7, MAX_LINES, MAX_LINES))
        prompt = self.tokenizer.propose_prompt(state, self.target(state), lines)
        moves = legal_moves(state)
        chosen = self.random.sample(moves, min(lines, len(moves)))
        return self._example(prompt, "\n".join(map(str, chosen)))

    def evaluate(self, count: int) -> Example:
        """A verdict, reasoned for two and three numbers; states that can be solved are drawn more often."""
        wanted = self.random.random()
        state, target = self._judged_state(count)
        for _ in range(11):
            if wanted > 0.4 or verdict(state, target) == ("sure" if wanted > 0.08 else "likely"):
                break
            state, target = self._judged_state(count)
        return self._example(self.tokenizer.evaluate_prompt(state, target), judgement(state, target))

    def solve(self, name: str, count: int) -> Example:
        """A random solution of a solvable puzzle: all steps (``cot``) or the expression alone (``io``)."""
        while True:
            state = self.state(count)
            target = DEFAULT_TARGET
            if self.random.random() < 0.2:
                found = self._walk(state)
                if found is None or not 1 <= found[-1].result <= 100:
                    continue
                target = found[-1].result
            else:
                chains = _open_solutions(state, target, self.split)
                if not chains:
                    continue
                found = self.random.choice(chains)
            result = f"{expression(state, found)} = {target}"
            if name == "io":
                return self._example(self.tokenizer.io_prompt(state, target), result)
            steps = "\n".join(map(str, found))
            return self._example(self.tokenizer.cot_prompt(state, target), f"{steps}\nAnswer: {result}")

    def arithmetic(self) -> Example:
        """A question of three to five operations with every intermediate result in 0..200, and its steps."""
        while True:
            operations = self.random.choice((3, 3, 4, 4, 5))
            question = random_question(self.random, operations)
            if question is not None and split_of_text(question.text) == self.split:
                prompt = self.tokenizer.arithmetic_prompt(question.text)
                return self._example(prompt, question.reasoning)

    def sudoku(self) -> Example:
        """A 4x4 grid with 4 to 11 givens and exactly one solution."""
        grids = sudoku_grids()
        while True:
            grid = self.random.choice(grids)
            if split_of_text(grid) == self.split:
                break
        return self._example(*self.sudoku_puzzle(grid))

    def sudoku_puzzle(self, grid: str, fewest: int = 4, most: int = 11) -> tuple[PuzzlePrompt, str]:
        """A prompt whose only solution is ``grid`` (16 digits), and the solution's text."""
        while True:
            givens = self.random.sample(range(16), self.random.randint(fewest, most))
            if sum(all(other[i] == grid[i] for i in givens) for other in sudoku_grids()) == 1:
                break
        cells = [grid[i] if i in givens else "." for i in range(16)]
        text = "\n".join(" ".join(grid[row : row + 4]) for row in range(0, 16, 4))
        return self.tokenizer.sudoku_prompt(cells), text

    def _judged_state(self, count: int) -> tuple[State, int]:
        if count == 1:
            target = self.target((self.random.randint(1, LARGEST_NUMBER),))
            near = target + self.random.randint(-2, 2)
            number = near if self.random.random() < 0.6 else self.random.randint(0, LARGEST_NUMBER)
            return (min(LARGEST_NUMBER, max(0, number)),), target
        if count == 2 and self.random.random() < 0.3:
            a, b = self.random.randint(0, LARGEST_NUMBER), self.random.randint(0, 60)
            state: State = (min(a, b), max(a, b))
        else:
            state = self.state(count)
        return state, self.target(state)

    def _walk(self, state: State) -> tuple[Move, ...] | None:
        """Random legal steps down to one number, avoiding held-out states; None where they all are."""
        found: list[Move] = []
        while len(state) > 1:
            moves = [m for m in legal_moves(state) if len(m.left) != 3 or split_of_numbers(m.left) == self.split]
            if not moves:
                return None
            found.append(self.random.choice(moves))
            state = found[-1].left
        return tuple(found)

    def _example(self, prompt: PuzzlePrompt, text: str) -> Example:
        tokens = self.tokenizer.encode_text(text)
        fill = prompt.canvas_length - len(tokens)
        if fill < 0:
            raise ValueError(
                f"completion of {len(tokens)} tokens exceeds the canvas of {prompt.canvas_length}: {text!r}"
            )
        canvas = (*tokens, *[self.tokenizer.eos_id] * fill)
        return Example(prompt.task, prompt.tokens, canvas, prompt.block_length)


@lru_cache(maxsize=50_000)
def _open_solutions(state: State, target: int, split: Split) -> list[tuple[Move, ...]]:
    """Every solution that passes through no three-number state of another split."""
    chains = solutions(state, target) if target in reachable_numbers(state) else ()
    return [c for c in chains if all(len(m.left) != 3 or split_of_numbers(m.left) == split for m in c)]


def judgement(state: State, target: int) -> str:
    """Reasoning and verdict: for two and three numbers, every result of one step and whether it will do.

    Of two numbers a result will do that is the target. Of three, one will do that is among the numbers from which the
    third leads to the target, and these stand in front of the results: they are what one step makes of the third
    number and the target, since ``r + c = t`` and ``c - r = t`` and ``r - c = t`` ask for their sum or difference,
    ``r * c = t``, ``r / c = t`` and ``c / r = t`` for their quotient or product. Three numbers are sure or impossible:
    whether a number near the target is in reach would take three such lists.
    """
    lines: list[str] = []
    word = verdict(state, target)
    if len(state) == 2:
        results = [apply(operator, *state) for operator in OPERATORS]
        flags = [_flag(None if result is None else frozenset((result,)), target) for result in results]
        lines.append(_judged(f"{state[0]} {state[1]}:", results, flags))
    elif len(state) == 3:
        for (i, j), rest in zip(combinations(range(3), 2), (2, 1, 0), strict=True):
            needed = _needed(state[rest], target)
            results = [apply(operator, state[i], state[j]) for operator in OPERATORS]
            flags = ["yes" if result is not None and result in needed else "no" for result in results]
            lines.append(_judged(f"{state[i]} {state[j]} | {state[rest]}: {_numbers(needed)}:", results, flags))
        word = "sure" if word == "sure" else "impossible"
    return "\n".join((*lines, word))


def _needed(third: int, target: int) -> list[int | None]:
    """The numbers from which one step with ``third`` leads to ``target``, as results of one step on the two."""
    if third == 0:
        return [target, target, None, None]
    return [apply(operator, *sorted((third, target))) for operator in OPERATORS]


def _judged(head: str, results: Sequence[int | None], flags: Sequence[str]) -> str:
    facts = ", ".join(f"{_numbers([result])} {flag}" for result, flag in zip(results, flags, strict=True))
    return f"{head} {facts}"


def _numbers(results: Sequence[int | None]) -> str:
    return " ".join("x" if result is None else str(result) for result in results)


def _flag(reached: frozenset[int] | None, target: int) -> str:
    if reached is None:
        return "no"
    if target in reached:
        return "yes"
    return "near" if target - 1 in reached or target + 1 in reached else "no"


@dataclass(frozen=True, slots=True)
class Question:
    """An arithmetic question: its expression, its steps and answer as text, its value."""

    text: str
    reasoning: str
    value: int


def random_question(rng: random.Random, operations: int) -> Question | None:
    """A random expression of ``operations`` operations; None if an intermediate result leaves 0..200.

    The expression is built as a tree; its steps are listed in the order a reader works them out, left to right and
    inside out. Factors and divisors are kept small so that products stay in range.
    """
    steps: list[str] = []

    def build(count: int, depth: int) -> tuple[str, int, int] | None:
        if count == 0:
            number = rng.randint(1, 12) if depth > 1 and rng.random() < 0.4 else rng.randint(1, 60)
            return str(number), number, 3
        left_count = rng.choice((count - 1, count - 1, rng.randint(0, count - 1)))
        left = build(left_count, depth + 1)
        operator = rng.choice("++--**/")
        if left is None:
            return None
        right: tuple[str, int, int] | None
        if left_count == count - 1 and operator in "*/":
            divisors = [d for d in range(2, 13) if left[1] % d == 0] if operator == "/" else list(range(2, 10))
            if not divisors:
                return None
            number = rng.choice(divisors)
            right = (str(number), number, 3)
        else:
            right = build(count - 1 - left_count, depth + 1)
        if right is None:
            return None
        a, b = left[1], right[1]
        if operator == "+":
            result = a + b
        elif operator == "-":
            result = a - b
        elif operator == "*":
            result = a * b
        else:
            result = a // b if b and a % b == 0 else -1
        if not 0 <= result <= LARGEST_NUMBER:
            return None
        rank = 1 if operator in "+-" else 2
        texts = [
            f"({text})" if inner < rank or (side and inner == rank) else text
            for side, (text, _, inner) in enumerate((left, right))
        ]
        steps.append(f"{a} {operator} {b} = {result}")
        return f"{texts[0]} {operator} {texts[1]}", result, rank

    built = build(operations, 0)
    if built is None:
        return None
    return Question(built[0], "\n".join((*steps, f"Answer: {built[1]}")), built[1])


@lru_cache(maxsize=1)
def sudoku_grids() -> tuple[str, ...]:
    """All 288 solved 4x4 grids as 16 digits, row by row."""
    rows = list(permutations("1234"))
    grids = []
    for four in product(rows, repeat=4):
        if {four[0][0], four[0][1]} & {four[1][0], four[1][1]} or {four[2][0], four[2][1]} & {four[3][0], four[3][1]}:
            continue
        if all(len({row[column] for row in four}) == 4 for column in range(4)):
            grids.append("".join("".join(row) for row in four))
    return tuple(grids)
