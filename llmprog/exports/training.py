"""Training data from runs: verified traces, preference pairs, and groups with their rewards."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Any

from llmprog.errors import OptionError
from llmprog.exports.samples import Group, Sample, groups_of, refuse_unverified
from llmprog.runs.run import Run
from llmprog.types import Completion, Prompt

_EPSILON = 1e-6  # keeps an advantage finite where rewards hardly differ

Line = dict[str, Any]


def sft_lines(run: Run, *, max_per_input: int | None = None) -> Iterator[Line]:
    """Completions that led to verified results, as conversations: what rejection sampling keeps.

    Args:
        run: The run.
        max_per_input: Lines of one run, or of one row of a job, at most; ``None`` is no limit.

    Raises:
        OptionError: Nothing verifies the run's results, or the limit is none.
    """
    _at_least_1("max_per_input", max_per_input)
    refuse_unverified(run, scores_do=False)
    return _sft_lines(run, max_per_input)


def _sft_lines(run: Run, max_per_input: int | None) -> Iterator[Line]:
    seen: set[bytes] = set()
    path, count = None, 0
    for group in groups_of(run):
        if group.path != path:
            path, count = group.path, 0
        for sample in group.samples:
            if not sample.is_verified or (max_per_input is not None and count >= max_per_input):
                continue
            messages = [*messages_of(group.prompt), reply_of(group.prompt, sample.completion)]
            mark = hashlib.blake2b(repr(messages).encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if mark not in seen:
                seen.add(mark)
                count += 1
                yield {"messages": messages, **_origin(run, group), "sample": sample.index}


def preference_lines(run: Run, *, max_pairs: int = 4, margin: float = 0.0) -> Iterator[Line]:
    """Pairs of replies to one question, of which the first is the better.

    Where results are verified, a sample that led to one is better than a sample that did not. Else the one with the
    higher score is, by more than nothing and at least ``margin``; pairs that are furthest apart come first.

    Args:
        run: The run.
        max_pairs: Pairs of one question at most.
        margin: How far apart scores have to be.

    Raises:
        OptionError: Nothing verifies or scores the run's results, or an option has no sense.
    """
    _at_least_1("max_pairs", max_pairs)
    if not math.isfinite(margin) or margin < 0:
        raise OptionError(f"margin={margin!r}; allowed is a finite number >= 0")
    refuse_unverified(run, scores_do=True)
    return _preference_lines(run, max_pairs, margin)


def _preference_lines(run: Run, max_pairs: int, margin: float) -> Iterator[Line]:
    for group in groups_of(run):
        pairs = _scored_pairs(group, max_pairs, margin) if group.basis == "score" else _verified_pairs(group, max_pairs)
        for chosen, rejected in pairs:
            yield {
                "prompt": messages_of(group.prompt),
                "chosen": [reply_of(group.prompt, chosen.completion)],
                "rejected": [reply_of(group.prompt, rejected.completion)],
                **_origin(run, group),
                "samples": [chosen.index, rejected.index],
                "rewards": [chosen.reward, rejected.reward],
            }


def _verified_pairs(group: Group, max_pairs: int) -> Iterator[tuple[Sample, Sample]]:
    """Every sample has its turn before one is paired again."""
    good = _by_text(sample for sample in group.samples if sample.is_verified)
    bad = _by_text(sample for sample in group.samples if not sample.is_verified)
    for text in good.keys() & bad.keys():  # what came of it depended on something else
        del good[text], bad[text]
    chosen, rejected = list(good.values()), list(bad.values())
    if not chosen or not rejected:
        return
    period = math.lcm(len(chosen), len(rejected))
    for turn in range(min(max_pairs, len(chosen) * len(rejected))):
        yield chosen[turn % len(chosen)], rejected[(turn + turn // period) % len(rejected)]


def _scored_pairs(group: Group, max_pairs: int, margin: float) -> list[tuple[Sample, Sample]]:
    scored = list(_by_text(s for s in group.samples if s.reward is not None and math.isfinite(s.reward)).values())

    def pairs() -> Iterator[tuple[float, int, int, Sample, Sample]]:
        for one in scored:
            for other in scored:
                apart = (one.reward or 0.0) - (other.reward or 0.0)
                if apart > 0 and apart >= margin:
                    yield -apart, one.index, other.index, one, other

    return [(chosen, rejected) for *_, chosen, rejected in heapq.nsmallest(max_pairs, pairs(), key=lambda p: p[:3])]


def _by_text(samples: Iterable[Sample]) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    for sample in samples:
        found.setdefault(sample.completion.text, sample)
    return found


def grpo_lines(run: Run, *, keep_flat: bool = False) -> Iterator[Line]:
    """The samples of each question with their rewards and advantages within the group.

    An advantage is ``(r - mean) / (std + 1e-6)`` over the group's rewards, as in DeepSeekMath (arXiv 2402.03300,
    outcome supervision) but for the small constant; the standard deviation is that of the group itself (divided by its
    size).

    Args:
        run: The run.
        keep_flat: Keep groups whose rewards are all the same, from which nothing can be learnt.

    Raises:
        OptionError: Nothing verifies or scores the run's results.
    """
    refuse_unverified(run, scores_do=True)
    return _grpo_lines(run, keep_flat)


def _grpo_lines(run: Run, keep_flat: bool) -> Iterator[Line]:
    for group in groups_of(run):
        rewards = _rewards(group)
        kept = [(s, r) for s, r in zip(group.samples, rewards, strict=True) if math.isfinite(r)]
        if len(kept) < 2 or (not keep_flat and len({reward for _, reward in kept}) == 1):
            continue
        yield {
            "messages": messages_of(group.prompt),
            "completions": [group.prompt.prefix + sample.completion.text for sample, _ in kept],
            "rewards": [reward for _, reward in kept],
            "advantages": advantages_of([reward for _, reward in kept]),
            **_origin(run, group),
            "samples": [sample.index for sample, _ in kept],
        }


def _rewards(group: Group) -> list[float]:
    """Each sample's reward; one that led to nothing valid gets the group's lowest score, and 0 at the most."""
    known = [sample.reward for sample in group.samples if sample.reward is not None]
    worst = min([0.0, *(reward for reward in known if math.isfinite(reward))])
    return [worst if sample.reward is None else sample.reward for sample in group.samples]


def advantages_of(rewards: list[float]) -> list[float]:
    """How far each reward is above the mean of all, in standard deviations."""
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return [(reward - mean) / (deviation + _EPSILON) for reward in rewards]


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt's messages as chat datasets have them."""
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def reply_of(prompt: Prompt, completion: Completion) -> dict[str, str]:
    """A completion as the assistant's message, its reasoning beside it where there is any."""
    message = {"role": "assistant", "content": prompt.prefix + completion.text}
    return message if completion.reasoning is None else message | {"reasoning_content": completion.reasoning}


def _origin(run: Run, group: Group) -> Line:
    return {"run": run.id, "path": group.path, "node": group.node, "call": group.call, "basis": group.basis}


def _at_least_1(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise OptionError(f"{name}={value!r}; allowed is a whole number >= 1")
