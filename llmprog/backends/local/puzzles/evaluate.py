"""What the embedded model can do on puzzles it never saw: the measures behind the model card.

``python -m llmprog.backends.local.puzzles.evaluate [WEIGHTS] [--split development|test] [--mode ar ...]`` prints
one JSON object. The samplers here are the plain rules without batching across shapes or caches across requests, kept
apart from the decoders that serve requests so that training does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from llmprog.backends.local.models import puzzles_weights
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.puzzles.data import ExampleStream, Question, judgement, random_question, sudoku_grids
from llmprog.backends.local.puzzles.language import PuzzlePrompt, PuzzleTokenizer
from llmprog.backends.local.puzzles.moves import State, legal_moves, reachable_numbers
from llmprog.backends.local.puzzles.split import Split, classic_puzzles, held_out_states, split_of_text
from llmprog.errors import InputError

MODES = ("ar", "diffusion", "hybrid")
TARGET = 24
VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


class Sampler:
    """Draws completions of many prompts in one mode.

    Args:
        model: The transformer.
        mode: ``ar``, ``diffusion`` (the leftmost masked token and all above ``threshold``) or ``hybrid`` (``alpha0`` of
            every block in random order, one token a step, then the rest from the left).
        seed: Fixes every draw.
    """

    def __init__(
        self, model: Transformer, mode: str, *, seed: int = 0, alpha0: float = 0.1, threshold: float = 0.99
    ) -> None:
        self.model = model
        self.mode = mode
        self.alpha0 = alpha0
        self.threshold = threshold
        self.tokenizer = PuzzleTokenizer()
        self.generator = torch.Generator().manual_seed(seed)
        self.num_forwards = 0
        self._never = torch.tensor(self.tokenizer.never_sampled)

    def complete(self, prompts: Sequence[PuzzlePrompt], temperature: float, max_rows: int = 512) -> list[str]:
        """One completion of each prompt, in order."""
        groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            groups[len(prompt.tokens), prompt.canvas_length, prompt.block_length].append(index)
        texts = [""] * len(prompts)
        rule = {"ar": self._autoregressive, "diffusion": self._diffusion, "hybrid": self._hybrid}[self.mode]
        for (_, canvas, block), indices in groups.items():
            for start in range(0, len(indices), max_rows):
                chosen = indices[start : start + max_rows]
                tokens = torch.tensor([prompts[i].tokens for i in chosen])
                with torch.inference_mode():
                    rows = rule(tokens, canvas, block, temperature)
                for i, row in zip(chosen, rows.tolist(), strict=True):
                    texts[i] = self.tokenizer.decode(row)
        return texts

    def _draw(self, logits: Tensor, temperature: float) -> Tensor:
        logits[..., self._never] = -math.inf
        if temperature == 0:
            return logits.argmax(-1)
        noise = torch.rand(logits.shape, generator=self.generator).clamp_min(1e-20)
        return (logits / temperature - (-noise.log()).log()).argmax(-1)

    def _with_mode(self, prompts: Tensor, mode_id: int) -> Tensor:
        return torch.cat([torch.full((prompts.shape[0], 1), mode_id), prompts], 1)

    def _autoregressive(self, prompts: Tensor, length: int, block: int, temperature: float) -> Tensor:
        tokens = self._with_mode(prompts, self.tokenizer.ar_id)
        rows, start = tokens.shape
        cache = self.model.make_cache(rows, start + length)
        out = torch.full((rows, length), self.tokenizer.eos_id)
        ended = torch.zeros(rows, dtype=torch.bool)
        fed = tokens
        for i in range(length):
            positions = torch.arange(cache.length, cache.length + fed.shape[1]).unsqueeze(0)
            mask = attention_masks.causal(fed.shape[1], cache.length)
            logits = self.model(fed, positions, mask, cache, output=slice(-1, None))[:, 0]
            self.num_forwards += 1
            drawn = self._draw(logits, temperature)
            out[:, i] = torch.where(ended, self.tokenizer.eos_id, drawn)
            ended |= drawn == self.tokenizer.eos_id
            if bool(ended.all()):
                break
            fed = drawn.unsqueeze(1)
        return out

    def _diffusion(self, prompts: Tensor, length: int, block: int, temperature: float) -> Tensor:
        tokens = self._with_mode(prompts, self.tokenizer.diffusion_id)
        rows, start = tokens.shape
        tokens = torch.cat([tokens, torch.full((rows, length), self.tokenizer.mask_id)], 1)
        positions = torch.arange(start + length).unsqueeze(0)
        mask = torch.ones(1, start + length, start + length, dtype=torch.bool)
        for low in range(start, start + length, block):
            here = slice(low, low + block)
            while True:
                masked = tokens[:, here] == self.tokenizer.mask_id
                if not bool(masked.any()):
                    break
                logits = self.model(tokens, positions, mask, output=here)
                self.num_forwards += 1
                drawn = self._draw(logits, temperature)
                sure = logits.softmax(-1).gather(2, drawn.unsqueeze(2)).squeeze(2) > self.threshold
                leftmost = masked & (masked.cumsum(1) == 1)
                tokens[:, here] = torch.where(masked & (sure | leftmost), drawn, tokens[:, here])
        return tokens[:, start:]

    def _hybrid(self, prompts: Tensor, length: int, block: int, temperature: float) -> Tensor:
        tokens = self._with_mode(prompts, self.tokenizer.hybrid_id)
        rows, start = tokens.shape
        index = torch.arange(length)
        noise = torch.rand(rows, length // block, block, generator=self.generator)
        diffused = (noise.argsort(2).argsort(2) < round(self.alpha0 * block)).flatten(1)
        within = torch.where(diffused, torch.rand(rows, length, generator=self.generator), 1.0 + index / length)
        sigma = (within + 3.0 * (index // block)).argsort(1)
        cache = self.model.make_cache(rows, start + length)
        out = torch.full((rows, length), self.tokenizer.eos_id)
        clean, clean_positions = tokens, torch.arange(start).expand(rows, -1)
        masks = torch.full((rows, 1), self.tokenizer.mask_id)
        for i in range(length):
            place = sigma[:, i : i + 1]
            fed = torch.cat([clean, masks], 1)
            positions = torch.cat([clean_positions, start + place], 1)
            mask = attention_masks.causal(fed.shape[1], cache.length)
            logits = self.model(fed, positions, mask, cache, store=clean.shape[1], output=slice(-1, None))[:, 0]
            self.num_forwards += 1
            drawn = self._draw(logits, temperature).unsqueeze(1)
            out.scatter_(1, place, drawn)
            clean, clean_positions = drawn, start + place
        return out


def measure_verdicts(sampler: Sampler, split: Split, count: int, rng: Random) -> dict[str, float]:
    """Greedy verdicts on held-out three-number states and on two-number states they lead to."""
    states = sorted(state for state, where in held_out_states().items() if where == split)
    three = rng.sample(states, min(count, len(states)))
    two = [rng.choice(legal_moves(state)).left for state in three]
    one = [(rng.choice((TARGET, TARGET, TARGET - 1, TARGET + 1, rng.randint(0, 200))),) for _ in range(32)]
    results: dict[str, float] = {}
    for name, chosen in (("3", three), ("2", two), ("1", one)):
        prompts = [sampler.tokenizer.evaluate_prompt(state, TARGET) for state in chosen]
        texts = sampler.complete(prompts, 0.0)
        written = [judgement(state, TARGET) for state in chosen]
        said, truth = ([text.rsplit("\n", 1)[-1] for text in which] for which in (texts, written))
        results[f"verdict_{name}"] = _share(a == b for a, b in zip(said, truth, strict=True))
        if name != "1":
            results[f"reasoning_{name}"] = _share(a == b for a, b in zip(texts, written, strict=True))
            found = [a == "sure" for a, b in zip(said, truth, strict=True) if b == "sure"]
            results[f"sure_recall_{name}"] = _share(found)
            right = [b == "sure" for a, b in zip(said, truth, strict=True) if a == "sure"]
            results[f"sure_precision_{name}"] = _share(right)
    return results


def measure_proposals(
    sampler: Sampler, split: Split, count: int, rng: Random, *, temperature: float, samples: int = 16, lines: int = 4
) -> dict[str, float]:
    """Legal lines, share of the legal steps that ``samples`` samples find, and how evenly they are spread."""
    puzzles = rng.sample(classic_puzzles(split), min(count, len(classic_puzzles(split))))
    held_out = sorted(state for state, where in held_out_states().items() if where == split)
    states: dict[str, list[State]] = {"4": list(puzzles), "3": rng.sample(held_out, min(count, len(held_out)))}
    states["2"] = [rng.choice(legal_moves(state)).left for state in states["3"]]
    results: dict[str, float] = {}
    for name, chosen in states.items():
        prompts = [sampler.tokenizer.propose_prompt(state, TARGET, lines) for state in chosen for _ in range(samples)]
        texts = sampler.complete(prompts, temperature)
        legal = total = 0
        covered: list[float] = []
        evenness: list[float] = []
        for index, state in enumerate(chosen):
            known = {str(move) for move in legal_moves(state)}
            found: Counter[str] = Counter()
            for text in texts[index * samples : (index + 1) * samples]:
                proposed = text.split("\n")
                total += len(proposed)
                found.update(line for line in proposed if line in known)
            legal += found.total()
            covered.append(len(found) / len(known))
            if len(known) > 1 and found:
                shares = [n / found.total() for n in found.values()]
                evenness.append(-sum(p * math.log(p) for p in shares) / math.log(len(known)))
        results[f"legal_{name}"] = legal / total
        results[f"covered_{name}"] = sum(covered) / len(covered)
        results[f"evenness_{name}"] = sum(evenness) / max(1, len(evenness))
    return results


def measure_chains(sampler: Sampler, split: Split, count: int, rng: Random) -> dict[str, float]:
    """Solvable held-out puzzles solved by one chain of thought or one expression."""
    solvable = [p for p in classic_puzzles(split) if TARGET in reachable_numbers(p)]
    puzzles = rng.sample(solvable, min(count, len(solvable)))
    results: dict[str, float] = {}
    for temperature in (0.0, 0.7):
        for name, ask in (("cot", sampler.tokenizer.cot_prompt), ("io", sampler.tokenizer.io_prompt)):
            texts = sampler.complete([ask(puzzle, TARGET) for puzzle in puzzles], temperature)
            solved = [is_solution(t.rsplit("Answer:", 1)[-1], p, TARGET) for t, p in zip(texts, puzzles, strict=True)]
            results[f"{name}_t{temperature:g}"] = _share(solved)
    return results


def measure_arithmetic(sampler: Sampler, split: Split, count: int, rng: Random) -> dict[str, float]:
    """Held-out questions answered by one sample at several temperatures."""
    questions: list[Question] = []
    while len(questions) < count:
        question = random_question(rng, rng.choice((3, 4, 5)))
        if question is not None and split_of_text(question.text) == split:
            questions.append(question)
    prompts = [sampler.tokenizer.arithmetic_prompt(question.text) for question in questions]
    results: dict[str, float] = {}
    for temperature in (0.0, 0.7, 1.0):
        texts = sampler.complete(prompts, temperature)
        right = [t.endswith(f"Answer: {q.value}") for t, q in zip(texts, questions, strict=True)]
        results[f"arithmetic_t{temperature:g}"] = _share(right)
    return results


def measure_sudoku(sampler: Sampler, split: Split, count: int, rng: Random) -> dict[str, float]:
    """Held-out grids of 4 to 6 givens with one solution, filled greedily, exactly."""
    stream = ExampleStream(rng.randrange(10**6), split)
    grids = [grid for grid in sudoku_grids() if split_of_text(grid) == split]
    puzzles = [stream.sudoku_puzzle(rng.choice(grids), fewest=4, most=6) for _ in range(count)]
    texts = sampler.complete([prompt for prompt, _ in puzzles], 0.0)
    return {"sudoku": _share(text == solution for text, (_, solution) in zip(texts, puzzles, strict=True))}


def measure_tree_of_thoughts(
    sampler: Sampler,
    split: Split,
    count: int,
    rng: Random,
    *,
    temperature: float,
    samples: int = 16,
    lines: int = 4,
    beam_width: int = 5,
    votes: int = 5,
    random_value: bool = False,
) -> dict[str, float]:
    """Solvable held-out puzzles solved by a beam; a state's value is the sum of ``votes`` verdicts."""
    solvable = [p for p in classic_puzzles(split) if TARGET in reachable_numbers(p)]
    puzzles = rng.sample(solvable, min(count, len(solvable)))
    beams: list[list[State]] = [[puzzle] for puzzle in puzzles]
    for _ in range(3):
        asked = [(index, state) for index, beam in enumerate(beams) for state in beam]
        prompts = [sampler.tokenizer.propose_prompt(s, TARGET, lines) for _, s in asked for _ in range(samples)]
        texts = sampler.complete(prompts, temperature)
        found: list[dict[State, None]] = [{} for _ in puzzles]
        for number, (index, state) in enumerate(asked):
            legal = {str(move): move.left for move in legal_moves(state)}
            for text in texts[number * samples : (number + 1) * samples]:
                found[index].update((legal[line], None) for line in text.split("\n") if line in legal)
        states = sorted({state for beam in found for state in beam})
        asked_states = [state for state in states for _ in range(votes)]
        answers = sampler.complete([sampler.tokenizer.evaluate_prompt(s, TARGET) for s in asked_states], temperature)
        values = dict.fromkeys(states, 0.0)
        for state, answer in zip(asked_states, answers, strict=True):
            values[state] += VALUES.get(answer.rsplit("\n", 1)[-1], 0.0)
        if random_value:
            values = {state: rng.random() for state in states}
        beams = [sorted(beam, key=lambda state: -values[state])[:beam_width] for beam in found]
    name = "tot_random_value" if random_value else "tot"
    return {name: _share((TARGET,) in beam for beam in beams)}


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "verdicts": measure_verdicts,
    "proposals": measure_proposals,
    "chains": measure_chains,
    "arithmetic": measure_arithmetic,
    "sudoku": measure_sudoku,
    "tree": measure_tree_of_thoughts,
}


def is_solution(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether ``text`` is ``expression = target`` over exactly ``numbers``, with the value it claims."""
    tokenizer = PuzzleTokenizer()
    left, equals, right = text.partition("=")
    try:
        words = [tokenizer.words[token] for token in tokenizer.encode_text(left)]
    except InputError:
        return False
    used = sorted(int(word) for word in words if word.isdigit())
    if not equals or right.strip() != str(target) or used != sorted(numbers):
        return False
    value = _value(words)
    return value is not None and abs(value - target) < 1e-9


def _value(words: list[str]) -> float | None:
    """The value of an infix expression; None where it is not one."""
    position = 0

    def operand() -> float:
        nonlocal position
        word = words[position]
        position += 1
        if word == "(":
            value = chain(0)
            if words[position] != ")":
                raise ValueError
            position += 1
            return value
        return float(word)

    def chain(level: int) -> float:
        nonlocal position
        if level == 2:
            return operand()
        value = chain(level + 1)
        while position < len(words) and words[position] in ("+-", "*/")[level]:
            operator = words[position]
            position += 1
            other = chain(level + 1)
            if operator == "/":
                value /= other
            else:
                value = value + other if operator == "+" else value - other if operator == "-" else value * other
        return value

    try:
        value = chain(0)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return value if position == len(words) else None


def evaluate(
    model: Transformer,
    split: Split,
    *,
    modes: Sequence[str] = MODES,
    count: int = 100,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    measures: Sequence[str] = tuple(MEASURES),
) -> dict[str, dict[str, float]]:
    """Every measure in every mode; the same puzzles for each."""
    results: dict[str, dict[str, float]] = {}
    for mode in modes:
        sampler = Sampler(model, mode, seed=seed)
        results[mode] = {}
        started = time.monotonic()
        for name in measures:
            rng = Random(f"{seed} {name}")
            if name in ("proposals", "tree"):
                keywords = {"temperature": temperature, "samples": samples}
                found = MEASURES[name](sampler, split, count, rng, **keywords)
            else:
                found = MEASURES[name](sampler, split, count, rng)
            results[mode].update({key: round(value, 4) for key, value in found.items()})
        results[mode]["seconds"] = round(time.monotonic() - started, 1)
        results[mode]["forwards"] = sampler.num_forwards
    return results


def main() -> None:
    """Measure a weights file on held-out puzzles and print one JSON object."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("weights", nargs="?", type=Path, default=puzzles_weights(further=False))
    parser.add_argument("--split", choices=("development", "test"), default="development")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--measure", nargs="+", choices=sorted(MEASURES), default=list(MEASURES))
    parser.add_argument("--count", type=int, default=100, help="puzzles or states per measure")
    parser.add_argument("--samples", type=int, default=16, help="proposals per state")
    parser.add_argument("--temperature", type=float, default=1.0, help="temperature of proposals")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    model = load_weights(a.weights, backend="local:puzzles")
    results = evaluate(
        model,
        a.split,
        modes=a.mode,
        count=a.count,
        samples=a.samples,
        temperature=a.temperature,
        seed=a.seed,
        measures=a.measure,
    )
    print(json.dumps(results, indent=1))  # noqa: T201 - the result of a command


def _share(values: Iterable[bool]) -> float:
    found = [bool(value) for value in values]
    return round(sum(found) / len(found), 4) if found else math.nan


if __name__ == "__main__":
    main()
