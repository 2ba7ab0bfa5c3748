from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders.base import Row, Vocabulary
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions, Remasking, RemaskSchedule
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.errors import OptionError

SCHEDULES: tuple[RemaskSchedule, ...] = ("cap", "rescale", "conf", "switch", "loop")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_share_of_written_tokens_is_kept_and_remasking_never_asks_for_more_than_there_is_room_for(
    schedule: RemaskSchedule,
) -> None:
    rule = Remasking(schedule, 1.0)
    time = torch.linspace(1, 0.05, 20)
    then = time - 0.05
    now, later, sigma = rule.alpha(time), rule.alpha(then.clamp(min=0)), rule.sigma(time, then.clamp(min=0))
    assert rule.alpha(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([0.0, 1.0])
    assert (later >= now - 1e-6).all()
    assert ((sigma >= 0) & (sigma <= 1)).all()
    # ReMDM, eq. 6: what is left of the written tokens is no more than what is to be written then.
    assert (now * (1 - sigma) <= later + 1e-6).all()
    assert (now * (1 - sigma) >= later - (1 - now) - 1e-6).all()
    assert float(sigma[-1]) == pytest.approx(0.0, abs=1e-5)
    assert float(sigma.max()) > 0


@pytest.mark.parametrize(("schedule", "expected"), [("cap", 0.2), ("rescale", 0.2 * 0.4 / 0.59)])
def test_written_tokens_are_masked_with_the_probability_of_the_schedule(
    schedule: RemaskSchedule, expected: float
) -> None:
    torch.manual_seed(0)
    rows, columns = 400, 100
    shown = torch.rand(rows, columns) < 0.6
    number, steps, masks = (torch.full((rows,), value) for value in (59, 100, columns))
    doubt = torch.zeros(rows, columns)
    hidden, count = Remasking(schedule, 0.2).choose(number, steps, masks, shown, doubt, torch.rand(rows, columns))
    # From 0.59 to 0.6 of the tokens: at most 0.4 / 0.59 of those written may go.
    assert float(hidden.sum() / shown.sum()) == pytest.approx(expected, abs=0.01)
    assert not (hidden & ~shown).any()
    written = shown.sum(1) - hidden.sum(1)
    assert ((written + count == 60) | (count == 0)).all()


def test_the_unsure_are_masked_first_by_conf() -> None:
    torch.manual_seed(0)
    shown = torch.ones(2000, 4, dtype=torch.bool)
    number, steps, masks = (torch.full((2000,), value) for value in (3, 8, 8))
    doubt = -torch.tensor([0.1, 0.9, 0.9, 0.9]).expand(2000, -1)
    hidden, _ = Remasking("conf").choose(number, steps, masks, shown, doubt, torch.rand(2000, 4))
    often = hidden.float().mean(0)
    weights = doubt[0].softmax(0)
    assert often.tolist() == pytest.approx(weights.tolist(), abs=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_block_has_as_many_written_tokens_after_a_step_as_planned(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], schedule: RemaskSchedule
) -> None:
    options = UnmaskOptions(unmask="random", steps=20)
    decoder = MaskedDiffusionDecoder(model, vocabulary, options, CorrectionOptions(remask=schedule, remask_eta=0.9))
    assert not decoder.keeps_tokens
    writing = decoder.start()
    writing.admit({0: make_row(length=10, block_length=10, may_end=False)})
    rule, changed = Remasking(schedule), 0
    before = writing.text(0)
    for step in range(19):
        assert writing.step() == {}
        text = writing.text(0)
        planned = int(rule.alpha(torch.tensor(1 - (step + 1) / 20)) * 10 + 1e-4)
        assert sum(token != vocabulary.mask_id for token in text) == planned
        changed += sum(a not in (b, vocabulary.mask_id) for a, b in zip(before, text, strict=True))
        before = text
    assert changed > 0
    assert set(writing.step()) == {0}


def test_remasking_needs_a_rule_that_counts(model: Transformer, vocabulary: Vocabulary) -> None:
    correction = CorrectionOptions(remask="cap")
    for options in (UnmaskOptions(), UnmaskOptions(unmask="entropy", entropy_bound=1.0)):
        with pytest.raises(OptionError, match="a rule that counts tokens"):
            MaskedDiffusionDecoder(model, vocabulary, options, correction)
