from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, uniform

CPU = torch.device("cpu")
LEAVE = CorrectionOptions()
RULES = {
    "quota, a token a step": (UnmaskOptions(unmask="quota"), LEAVE),
    "quota, 3 steps": (UnmaskOptions(unmask="quota", steps=3), LEAVE),
    "random, 2 steps": (UnmaskOptions(unmask="random", steps=2), LEAVE),
    "margin, 2 steps": (UnmaskOptions(unmask="margin", steps=2), LEAVE),
    "entropy, 2 steps": (UnmaskOptions(unmask="entropy", steps=2), LEAVE),
    "entropy, bounded": (UnmaskOptions(unmask="entropy", entropy_bound=2.0), LEAVE),
    "threshold, confident": (UnmaskOptions(unmask="threshold", threshold=0.25), LEAVE),
    "threshold, leftmost": (UnmaskOptions(unmask="threshold", threshold=0.25, fallback="leftmost"), LEAVE),
    "factor": (UnmaskOptions(unmask="factor", factor=2.0), LEAVE),
    "credit": (UnmaskOptions(unmask="credit", threshold=0.4, credit_weight=2.0), LEAVE),
    "hierarchical": (UnmaskOptions(unmask="hierarchical", threshold=0.4, low_threshold=0.15), LEAVE),
    "guided": (UnmaskOptions(unmask="quota", steps=2, guidance_scale=0.8), LEAVE),
    "shifted": (UnmaskOptions(unmask="quota", steps=3), LEAVE),
    "remasked, cap": (UnmaskOptions(unmask="quota", steps=8), CorrectionOptions(remask="cap", remask_eta=0.3)),
    "remasked, rescale": (UnmaskOptions(unmask="random"), CorrectionOptions(remask="rescale", remask_eta=0.5)),
    "remasked, conf": (UnmaskOptions(unmask="random", steps=7), CorrectionOptions(remask="conf")),
    "remasked, switch": (UnmaskOptions(unmask="margin", steps=7), CorrectionOptions(remask="switch", remask_eta=0.5)),
    "remasked, loop": (UnmaskOptions(unmask="quota", steps=14), CorrectionOptions(remask="loop", remask_eta=0.3)),
    "edited": (UnmaskOptions(unmask="threshold", threshold=0.25), CorrectionOptions(edit_threshold=0.3)),
    "edited, at most 1 step more": (
        UnmaskOptions(unmask="quota", steps=2),
        CorrectionOptions(edit_threshold=0.2, edit_steps=1),
    ),
}


def predict(model: Transformer, vocabulary: Vocabulary, tokens: list[int]) -> torch.Tensor:
    length = len(tokens)
    with torch.no_grad():
        mask = attention_masks.bidirectional(torch.ones(1, length, dtype=torch.bool))
        return model(torch.tensor([tokens]), torch.arange(length).unsqueeze(0), mask)[0]


def runs_of(places: list[int]) -> list[list[int]]:
    """Ascending places cut where one is missing."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def reveal(
    options: UnmaskOptions, proposals: dict[int, tuple[float, int]], total: int, step: int, count: int | None
) -> set[int]:
    """Which of the proposals, position -> (confidence, token), stay."""
    ranked = sorted(proposals, key=lambda i: (-proposals[i][0], i))
    if not ranked:
        return set()
    if count is not None:
        return set(ranked[:count])
    if options.unmask in ("threshold", "credit"):
        chosen = {i for i in proposals if proposals[i][0] >= options.threshold}
        if options.fallback == "leftmost":
            chosen.add(min(proposals))
        return chosen or {ranked[0]}
    if options.unmask == "factor":
        safe = [n for n, i in enumerate(ranked, 1) if (n + 1) * (1 - proposals[i][0]) < options.factor]
        return set(ranked[: max(safe, default=1)])
    if options.unmask == "hierarchical":
        best = [max(run, key=lambda i: (proposals[i][0], -i)) for run in runs_of(sorted(proposals))]
        chosen = {i for i in best if proposals[i][0] > options.low_threshold}
        return chosen | {i for i in proposals if proposals[i][0] >= options.threshold} | {ranked[0]}
    if options.unmask == "entropy" and options.entropy_bound is not None:
        before = [sum(-proposals[j][0] for j in ranked[:n]) for n in range(len(ranked))]
        return {i for i, lost in zip(ranked, before, strict=True) if lost <= options.entropy_bound}
    steps = options.steps or total
    return set(ranked[: total // steps + (step < total % steps)])


def sigma_of(correction: CorrectionOptions, time: float, then: float) -> tuple[float, float]:
    """Probability of masking a written token, and the share that is written afterwards."""

    def alpha(t: float) -> float:
        if correction.remask != "loop":
            return 1 - t
        return 0.9 * (1 - t) / 0.45 if t > 0.55 else (0.9 if t >= 0.05 else 1 - 0.1 * t / 0.05)

    most = min(1.0, (1 - alpha(then)) / alpha(time)) if alpha(time) else 1.0
    eta = {"cap": 0.1, "rescale": 0.1, "conf": 1.0, "switch": 0.1, "loop": 0.1}[correction.remask]
    eta = eta if correction.remask_eta is None else correction.remask_eta
    if correction.remask in ("rescale", "conf"):
        return eta * most, alpha(then)
    late = time <= 0.55 if correction.remask == "switch" else then >= 0.05 and time <= 0.55
    return (min(eta, most) if late or correction.remask == "cap" else 0.0), alpha(then)


def remasked(
    correction: CorrectionOptions,
    shares: dict[int, float],
    total: int,
    step: int,
    steps: int,
    draws: dict[int, float],
) -> tuple[set[int], int]:
    """Which of the written tokens, position -> probability when written, are masked again; how many are revealed."""
    sigma, alpha = sigma_of(correction, max(0.0, 1 - step / steps), max(0.0, 1 - (step + 1) / steps))
    weights = dict.fromkeys(shares, 1.0)
    if correction.remask == "conf":
        norm = sum(math.exp(-share) for share in shares.values())
        weights = {i: math.exp(-share) / norm for i, share in shares.items()}
    hidden = sorted((i for i in shares if draws[i] < sigma * weights[i]), key=draws.__getitem__)
    target = math.floor(alpha * total + 1e-4)
    hidden = hidden[: total - target]
    return set(hidden), max(0, target - len(shares) + len(hidden))


class SlowRow:
    """LLaDA's generate() for one row, written out; what happens is counted in ``seen``."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UnmaskOptions,
        correction: CorrectionOptions,
        row: Row,
        *,
        shift: bool,
    ) -> None:
        self.model, self.vocabulary, self.options, self.correction = model, vocabulary, options, correction
        self.row, self.shift = row, shift
        self.sampler = Sampler.of([row.params], [row.key], CPU)
        self.canvas = list(row.canvas)
        self.draw = 0
        self.seen = {"most at once": 0, "remasked": 0, "edited": 0}

    def write(self) -> list[int]:
        length = self.row.block_length
        for start in range(0, len(self.canvas), length):
            block = [i for i in range(start, min(start + length, len(self.canvas))) if self.is_masked(i)]
            self.shares: dict[int, float] = {}
            self.credit: dict[int, dict[int, float]] = {i: {} for i in block}
            step, edits_left, is_open = 0, self.correction.edit_steps, False
            while is_open or any(map(self.is_masked, block)):
                if self.is_settled() and not is_open:
                    return self.canvas
                edits_left -= not any(map(self.is_masked, block))
                changed = self.step(block, step)
                step += 1
                if self.correction.is_used:
                    editable = self.correction.edit_threshold is not None and changed and edits_left > 0
                    is_open = any(map(self.is_masked, block)) or editable
        return self.canvas

    def is_masked(self, place: int) -> bool:
        return self.canvas[place] == self.vocabulary.mask_id

    def is_settled(self) -> bool:
        canvas, eos = self.canvas, self.vocabulary.eos_id
        return eos in canvas and self.vocabulary.mask_id not in canvas[: canvas.index(eos)]

    def step(self, block: list[int], number: int) -> bool:
        """One step; whether it changed anything. ``block``: the places of the block that were not given."""
        logits = self.logits()
        proposals = {i: self.propose(i, logits[i]) for i in block if self.is_masked(i)}
        written = {i: self.shares[i] for i in block if not self.is_masked(i)}
        count, hidden = None, set()
        if self.correction.remask is not None:
            steps = self.options.steps or len(block)
            draws = {i: self.uniform(3 << 18, i) for i in written}
            hidden, count = remasked(self.correction, written, len(block), number, steps, draws)
        edits = {i: token for i in written.keys() - hidden if (token := self.edit(i, logits[i])) is not None}
        chosen = reveal(self.options, proposals, len(block), number, count)
        for i in chosen:
            self.canvas[i] = proposals[i][1]
            self.shares[i] = float(logits[i].softmax(0)[self.canvas[i]])
        for i in hidden:
            self.canvas[i] = self.vocabulary.mask_id
        for i, token in edits.items():
            self.canvas[i] = token
        self.seen["most at once"] = max(self.seen["most at once"], len(chosen))
        self.seen["remasked"] += len(hidden)
        self.seen["edited"] += len(edits)
        self.draw += 1
        return bool(chosen or hidden or edits)

    def logits(self) -> torch.Tensor:
        """Those of the canvas."""
        prompt, mask_id = list(self.row.prompt), self.vocabulary.mask_id
        logits = predict(self.model, self.vocabulary, prompt + self.canvas)
        scale = self.options.guidance_scale
        if scale:
            blind = [prompt[0]] + [mask_id] * (len(prompt) - 1)
            unseeing = predict(self.model, self.vocabulary, blind + self.canvas)
            logits = unseeing + (scale + 1) * (logits - unseeing)
        start = len(prompt) - self.shift
        logits = logits[start : start + len(self.canvas)].clone()
        logits[:, list(self.vocabulary.never_sampled)] = -math.inf
        if not self.row.may_end:
            logits[:, self.vocabulary.eos_id] = -math.inf
        return logits

    def uniform(self, offset: int, place: int) -> float:
        return float(uniform(torch.tensor([self.row.key]), (self.draw << 20) + offset + place, 1))

    def propose(self, place: int, logits: torch.Tensor) -> tuple[float, int]:
        """Confidence and token; credit is added to ``logits``."""
        options = self.options
        if options.unmask == "credit":
            earned = {token: options.credit_decay * value for token, value in self.credit[place].items()}
            share, likeliest = logits.softmax(0).max(0)
            earned[int(likeliest)] = earned.get(int(likeliest), 0.0) + float(share) ** options.credit_power
            self.credit[place] = earned
            for credited, value in earned.items():
                logits[credited] += options.credit_weight * math.log1p(value)
        token = int(self.sampler.sample(logits.unsqueeze(0), (self.draw << 20) + place)[0])
        shares = logits.softmax(0)
        if options.unmask == "random":
            return self.uniform(1 << 19, place), token
        if options.unmask == "margin":
            first, second = shares.topk(2).values.tolist()
            return first - second, token
        if options.unmask == "entropy":
            return sum(p * math.log(p) for p in shares.tolist() if p), token
        return float(shares[token]), token

    def edit(self, place: int, logits: torch.Tensor) -> int | None:
        """What replaces a written token."""
        share, token = logits.softmax(0).max(0)
        threshold = self.correction.edit_threshold
        return int(token) if threshold is not None and share > threshold and token != self.canvas[place] else None


def text_of(canvas: list[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    return tuple(canvas[: canvas.index(vocabulary.eos_id)] if vocabulary.eos_id in canvas else canvas)


@pytest.mark.parametrize("rule", RULES)
def test_a_mixed_batch_follows_lladas_rules_row_by_row(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], rule: str
) -> None:
    options, correction = RULES[rule]
    shift = rule == "shifted"
    decoder = MaskedDiffusionDecoder(model, vocabulary, options, correction, shift_logits=shift)
    mixed_rows = mixed_rows if correction is LEAVE else mixed_rows[:9]
    results = write_all(decoder, mixed_rows)
    ended = 0
    seen = {"most at once": 0, "remasked": 0, "edited": 0}
    for row, result in zip(mixed_rows, results, strict=True):
        slow = SlowRow(model, vocabulary, options, correction, row, shift=shift)
        assert result.tokens == text_of(slow.write(), vocabulary)
        assert result.logprobs is None
        ended += result.ended
        seen = {name: max(value, slow.seen[name]) for name, value in seen.items()}
    assert ended < len(mixed_rows)
    assert ended or options.unmask != "threshold"
    assert seen["most at once"] > 1 or options.unmask == "quota"
    assert (seen["remasked"] > 0) == (correction.remask is not None)
    assert (seen["edited"] > 0) == (correction.edit_threshold is not None)


@pytest.mark.parametrize("rule", ["quota, 3 steps", "credit", "remasked, conf", "edited"])
def test_a_row_says_the_same_alone(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], rule: str
) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary, *RULES[rule])
    together = write_all(decoder, mixed_rows)
    for row, result in zip(mixed_rows, together, strict=True):
        alone = write_all(decoder, [row])[0]
        assert alone is not None
        assert result is not None
        assert alone.tokens == result.tokens


def test_equal_canvases_are_computed_once(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    fed: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[0]))
    try:
        decoder = MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(unmask="quota"))
        write_all(decoder, [make_row((5, i % 2), 4, sample=i, may_end=False) for i in range(6)])
        warm, fed = fed, []
        write_all(decoder, [make_row((5, i % 2), 4, sample=i, may_end=False, temperature=0) for i in range(6)])
    finally:
        hook.remove()
    assert warm[0] == 2
    assert warm[-1] == 6
    assert fed == [2, 2, 2, 2]


def test_given_text_stays_and_blanks_keep_their_length(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    mask, eos = vocabulary.mask_id, vocabulary.eos_id
    canvas = (9, mask, mask, 10, 11, mask, 12, mask, mask, mask, eos)
    rows = [make_row(canvas=canvas, sample=i, may_end=False, block_length=3) for i in range(20)]
    texts = set()
    for result in write_all(MaskedDiffusionDecoder(model, vocabulary), rows):
        assert result is not None
        assert len(result.tokens) == 10
        assert result.ended
        assert result.num_generated == 6
        for given, token in zip(canvas, result.tokens, strict=False):
            assert given in (token, mask)
            assert token not in (*vocabulary.never_sampled, eos)
        texts.add(result.tokens)
    assert len(texts) > 10


def test_only_masked_blocks_get_an_output_head(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    whole = model.unembed
    monkeypatch.setattr(model, "unembed", lambda hidden: shapes.append(tuple(hidden.shape[:2])) or whole(hidden))
    rows = [make_row(length=8, sample=i, may_end=False, block_length=4) for i in range(3)]
    write_all(MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(unmask="quota", steps=2)), rows)
    assert {width for _, width in shapes} == {4}
    assert len(shapes) == 4


def test_stop_checks_end_their_rows(model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary)

    def rows(check: Callable[..., bool] | None) -> list[Row]:
        return [make_row(length=9, sample=i, may_end=False, has_stopped=check if i < 3 else None) for i in range(6)]

    free = write_all(decoder, rows(None))
    checked = write_all(decoder, rows(lambda tokens: len(tokens) >= 4))
    for i in range(6):
        before, after = free[i], checked[i]
        assert before is not None
        assert after is not None
        assert after.tokens == before.tokens[: len(after.tokens)]
        assert after.ended == (i < 3)
        assert (4 <= len(after.tokens) < 9) if i < 3 else len(after.tokens) == 9


def expected_bound(model: Transformer, vocabulary: Vocabulary, continuation: Continuation) -> float:
    """The mean over all numbers and all sets of masked tokens."""
    tokens, mask = list(continuation.tokens), vocabulary.mask_id
    length = len(tokens)
    total = 0.0
    for count in range(1, length + 1):
        sets = list(combinations(range(length), count))
        for hidden in sets:
            canvas = [mask if i in hidden else t for i, t in enumerate(tokens)] + [vocabulary.eos_id]
            logits = predict(model, vocabulary, list(continuation.prompt) + canvas)[len(continuation.prompt) :]
            logits[:, list(vocabulary.never_sampled)] = -math.inf
            logprobs = logits.log_softmax(-1)
            value = sum(float(logprobs[i, tokens[i]]) for i in hidden)
            total += length / count * value / len(sets) / length
    return total


def test_the_score_estimates_lladas_bound(model: Transformer, vocabulary: Vocabulary) -> None:
    continuations = [Continuation((3, 5, 6), (9, 10, 7, 8)), Continuation((3, 8), (4,)), Continuation((3, 8), (4, 11))]
    decoder = MaskedDiffusionDecoder(model, vocabulary, score_samples=3000)
    scores = decoder.score(continuations)
    for continuation, score in zip(continuations, scores, strict=True):
        assert len(score) == len(continuation.tokens)
        assert sum(score) == pytest.approx(expected_bound(model, vocabulary, continuation), abs=0.15)
    assert decoder.score_is_bound


def test_the_score_is_fixed_by_its_seed_and_not_by_its_batch(model: Transformer, vocabulary: Vocabulary) -> None:
    first, second = Continuation((3, 5, 6), (9, 10, 7, 8)), Continuation((3, 8), (4, 20, 9, 9, 6, 7))
    few = MaskedDiffusionDecoder(model, vocabulary, score_samples=8)
    both = few.score([first, second])
    assert few.score([second])[0] == pytest.approx(both[1], abs=1e-4)
    other = MaskedDiffusionDecoder(model, vocabulary, score_samples=8, score_seed=1)
    assert sum(other.score([first])[0]) != pytest.approx(sum(both[0]), abs=1e-3)


@pytest.mark.parametrize("shift", [False, True])
def test_each_token_can_be_judged_by_all_others(model: Transformer, vocabulary: Vocabulary, shift: bool) -> None:
    prompt, tokens = (3, 5, 6), (9, 10, 7, 8)
    decoder = MaskedDiffusionDecoder(model, vocabulary, shift_logits=shift)
    alone, joint = decoder.score([Continuation(prompt, tokens, each_alone=True), Continuation(prompt, tokens)])
    assert sum(alone) != pytest.approx(sum(joint), abs=0.01)
    for i, value in enumerate(alone):
        canvas = [vocabulary.mask_id if i == j else token for j, token in enumerate(tokens)]
        logits = predict(model, vocabulary, [*prompt, *canvas, vocabulary.eos_id])[len(prompt) + i - shift]
        logits[list(vocabulary.never_sampled)] = -math.inf
        assert value == pytest.approx(float(logits.log_softmax(-1)[tokens[i]]), abs=1e-4)
