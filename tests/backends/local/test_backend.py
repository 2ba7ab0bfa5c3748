from __future__ import annotations

import asyncio
import importlib.util
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmprog.backends.base import Backend
from llmprog.backends.local import backend as local
from llmprog.backends.local.backend import LocalBackend, LocalOptions, open_backend
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.networks.weights import save_weights
from llmprog.backends.local.options import DecoderName
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.text.infilling import INFILLING_DECODERS
from llmprog.backends.local.text.text_language import TextLanguage
from llmprog.errors import CapabilityError, InputError, MissingExtraError, ModelFileError, OptionError
from llmprog.types import Blank, Choices, Prompt, Request, SamplingParams, Template

PROPOSE = Prompt.from_text("Input: 4 9 10 13\nPossible next steps:\n")
JUDGE = Prompt.from_text("Evaluate if the numbers can reach 24.\n4 4 10")
SUDOKU = Prompt.from_text("1 . . 4\n. . 1 .\n. 1 . .\n4 . . 1\nSolution:\n")
DECODERS = ("autoregressive", "masked_diffusion", "hybrid")

Opener = Callable[..., LocalBackend]


def untrained(tokenizer: PuzzleTokenizer, path: Path) -> Path:
    """A file of a model of the embedded model's kind that has learned nothing."""
    torch.manual_seed(1)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        d_ff=48,
        max_positions=160,
    )
    model = Transformer(config)
    with torch.no_grad():
        model.embedding.weight.mul_(0.5)
    save_weights(model, path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(PuzzleTokenizer(), tmp_path_factory.mktemp("weights") / "random.safetensors")


@pytest.fixture
async def opened(weights: Path) -> AsyncIterator[Opener]:
    backends: list[LocalBackend] = []

    def opener(**options: object) -> LocalBackend:
        backends.append(LocalBackend.open(LocalOptions(device="cpu", **options), weights=weights))
        return backends[-1]

    yield opener
    for backend in backends:
        await backend.aclose()


@pytest.mark.parametrize("decoder", DECODERS)
async def test_generate_gives_the_samples_asked_for_with_their_usage(opened: Opener, decoder: str) -> None:
    backend = opened(decoder=decoder)
    assert isinstance(backend, Backend)
    assert backend.capabilities.infill == (decoder != "autoregressive")
    completions = await backend.generate(
        Request(prompt=PROPOSE, params=SamplingParams(seed=1, max_tokens=30), num_samples=5)
    )
    assert len({c.text for c in completions}) > 1
    prompt_tokens = len(PuzzleTokenizer().encode_prompt(PROPOSE.text).tokens) + 1
    assert [c.usage.prompt_tokens for c in completions] == [prompt_tokens, 0, 0, 0, 0]
    for completion in completions:
        assert completion.usage.calls == 1
        assert completion.usage.usd == 0.0
        assert 0 < completion.usage.completion_tokens <= 30
        assert completion.finish_reason == ("length" if completion.usage.completion_tokens == 30 else "stop")


@pytest.mark.parametrize("decoder", DECODERS)
async def test_a_sample_is_fixed_by_seed_prompt_and_index_however_requests_are_batched(
    opened: Opener, decoder: str
) -> None:
    backend = opened(decoder=decoder)
    params = SamplingParams(seed=5, max_tokens=20, temperature=1.0)
    requests = [Request(prompt=p, params=params, num_samples=4) for p in (PROPOSE, JUDGE, SUDOKU)]
    together = await asyncio.gather(*(backend.generate(r) for r in requests))
    for request, completions in zip(requests, together, strict=True):
        alone = await backend.generate(request)
        assert [c.text for c in alone] == [c.text for c in completions]
        third = await backend.generate(Request(prompt=request.prompt, params=params, first_sample=2))
        assert third[0].text == completions[2].text
    small = opened(decoder=decoder, max_batch_rows=3)
    split = await asyncio.gather(*(small.generate(r) for r in requests))
    assert [[c.text for c in completions] for completions in split] == [[c.text for c in t] for t in together]
    other = await backend.generate(
        Request(prompt=PROPOSE, params=SamplingParams(seed=6, max_tokens=20, temperature=1.0), num_samples=4)
    )
    assert [c.text for c in other] != [c.text for c in together[0]]
    fresh = [await backend.generate(Request(prompt=PROPOSE, params=SamplingParams(max_tokens=20))) for _ in range(2)]
    assert fresh[0][0].text != fresh[1][0].text


@pytest.mark.parametrize("decoder", DECODERS)
async def test_temperature_filters_and_length_are_honoured(opened: Opener, decoder: str) -> None:
    # The hybrid's order of writing is drawn at every temperature; from left to right it is greedy like the others.
    backend = opened(decoder=decoder, **({"alpha0": 0.0} if decoder == "hybrid" else {}))

    async def texts(**params: float) -> list[str]:
        completions = await backend.generate(
            Request(prompt=PROPOSE, params=SamplingParams(seed=1, **params), num_samples=6)
        )
        return [c.text for c in completions]

    greedy = await texts(temperature=0, max_tokens=12)
    assert len(set(greedy)) == 1
    assert await texts(temperature=2.0, max_tokens=12, top_k=1) == greedy
    assert await texts(temperature=2.0, max_tokens=12, top_p=1e-6) == greedy
    assert await texts(temperature=2.0, max_tokens=12, min_p=0.9999) == greedy
    assert len(set(await texts(temperature=2.0, max_tokens=12))) > 1
    assert all(len(PuzzleTokenizer().encode_text(text)) <= 5 for text in await texts(max_tokens=5))


@pytest.mark.parametrize("decoder", DECODERS)
async def test_stop_texts_end_a_completion_and_are_not_part_of_it(opened: Opener, decoder: str) -> None:
    backend = opened(decoder=decoder)
    free = await backend.generate(
        Request(prompt=PROPOSE, params=SamplingParams(seed=3, temperature=1.0), num_samples=12)
    )
    stopped = await backend.generate(
        Request(prompt=PROPOSE, params=SamplingParams(seed=3, temperature=1.0, stop=("7", " 1")), num_samples=12)
    )
    cut = 0
    for a, b in zip(free, stopped, strict=True):
        ends = [a.text.index(s) for s in ("7", " 1") if s in a.text]
        assert b.text == a.text[: min(ends, default=len(a.text))]
        if ends:
            assert b.finish_reason == "stop"
            assert b.usage.completion_tokens < a.usage.completion_tokens or decoder != "autoregressive"
        if b.logprobs is not None:
            assert len(b.logprobs.tokens) == len(PuzzleTokenizer().encode_text(b.text))
        cut += bool(ends)
    assert cut > 3


@pytest.mark.parametrize("decoder", DECODERS)
async def test_a_prefix_begins_the_reply_and_is_not_repeated(opened: Opener, decoder: str) -> None:
    backend = opened(decoder=decoder)
    prompt = Prompt(PROPOSE.messages, prefix="13 - 9 = 4 (left:")
    plain = await backend.generate(Request(prompt=PROPOSE, params=SamplingParams(seed=1, temperature=0, max_tokens=9)))
    begun = await backend.generate(Request(prompt=prompt, params=SamplingParams(seed=1, temperature=0, max_tokens=9)))
    assert begun[0].text != plain[0].text
    assert "left" not in begun[0].text[:3]
    assert begun[0].usage.prompt_tokens == plain[0].usage.prompt_tokens + 6


async def test_autoregressive_logprobs_sum_to_the_score(opened: Opener) -> None:
    backend = opened()
    completions = await backend.generate(
        Request(prompt=PROPOSE, params=SamplingParams(seed=2, temperature=0.6, max_tokens=12), num_samples=5)
    )
    scores = await backend.score(PROPOSE, [c.text for c in completions])
    for completion, score in zip(completions, scores, strict=True):
        assert completion.logprobs is not None
        assert score.tokens == completion.logprobs.tokens
        assert score.logprobs == pytest.approx(completion.logprobs.logprobs, abs=1e-3)
        assert not score.is_bound


@pytest.mark.parametrize("decoder", DECODERS)
async def test_scores_are_given_in_order_and_say_whether_they_are_bounds(opened: Opener, decoder: str) -> None:
    backend = opened(decoder=decoder)
    texts = ["sure", "", "likely", "5 6: 11 no\nsure"]
    scores = await backend.score(JUDGE, texts)
    assert [s.tokens for s in scores][:3] == [("sure",), (), ("likely",)]
    assert scores[1].total == 0
    assert all(s.total < 0 for i, s in enumerate(scores) if i != 1)
    assert all(s.is_bound == (decoder == "masked_diffusion") for s in scores)
    again = await backend.score(JUDGE, texts[::-1])
    assert [s.total for s in again][::-1] == pytest.approx([s.total for s in scores], abs=1e-3)
    with pytest.raises(InputError, match="vocabulary"):
        await backend.score(JUDGE, ["certainly"])


@pytest.mark.parametrize("decoder", INFILLING_DECODERS)
async def test_infill_keeps_given_text_character_for_character(tmp_path: Path, decoder: str) -> None:
    weights = untrained(PuzzleTokenizer(further_modes=True), tmp_path / "all_modes.safetensors")
    backend = LocalBackend.open(LocalOptions(device="cpu", decoder=decoder), weights=weights)
    template = Template(SUDOKU, ("1 ", Blank(2), "  4\n", Blank(1), " 4 1 ", Blank(1), "\n2", Blank(3), "4\n"))
    params = SamplingParams(seed=1, temperature=1.0)
    completions = await backend.infill(template, params, 4)
    for completion in completions:
        first, second, third, rest = completion.text.split("\n", 3) if completion.text.count("\n") == 3 else [""] * 4
        if first:  # the untrained model may write line breaks into the blanks
            assert first.startswith("1 ")
            assert first.endswith("  4")
            assert " 4 1 " in second
            assert third.startswith("2 ")
            assert third.endswith(" 4")
            assert rest == ""
        assert completion.usage.completion_tokens == 7
    given = PuzzleTokenizer().encode_text("1 4 \n 4 1 \n 2 4 \n")
    assert completions[0].usage.prompt_tokens == 18 + len(given)
    assert len({c.text for c in completions}) > 1
    asked = await backend.generate(Request(prompt=template, params=params, num_samples=4))
    assert [c.text for c in asked] == [c.text for c in completions]
    second = await backend.generate(Request(prompt=template, params=params, first_sample=1))
    assert second[0].text == completions[1].text
    await backend.aclose()


async def test_what_infill_cannot_do_is_refused_by_name(opened: Opener) -> None:
    template = Template(SUDOKU, ("1 ", Blank(3), "\n"))
    with pytest.raises(CapabilityError, match="use decoder=masked_diffusion or decoder=block_diffusion"):
        await opened().infill(template, SamplingParams())
    hybrid = opened(decoder="hybrid")
    with pytest.raises(OptionError, match="stop"):
        await hybrid.infill(template, SamplingParams(stop=("\n",)))
    with pytest.raises(OptionError, match=r"max_tokens=2.*3 tokens"):
        await hybrid.infill(template, SamplingParams(max_tokens=2))
    for params, message in (
        (SamplingParams(logprobs=True), "reports no log-probabilities"),
        (SamplingParams(guided=Choices(("1 2",))), "cannot be held to Choices"),
    ):
        with pytest.raises(CapabilityError, match=message):
            await hybrid.infill(template, params)
        with pytest.raises(CapabilityError, match=message):
            await hybrid.generate(Request(prompt=template, params=params))
        with pytest.raises(CapabilityError, match=message):
            await hybrid.edit(SUDOKU, "1 2 3 4", params)


async def test_too_long_and_unrecognised_prompts_are_input_errors(opened: Opener) -> None:
    backend = opened(decoder="masked_diffusion")
    with pytest.raises(InputError, match="not recognised"):
        await backend.generate(Request(prompt=Prompt.from_text("Tell me a story")))
    for question in ("Why is the sky blue?", "What is the sky?"):
        with pytest.raises(InputError, match="knows number puzzles and arithmetic only; for other questions name"):
            await backend.generate(Request(prompt=Prompt.from_text(f"Question: {question}\nReasoning:")))
    with pytest.raises(InputError, match="room for 160"):
        await backend.infill(Template(SUDOKU, (Blank(200),)), SamplingParams())
    with pytest.raises(InputError, match="room for 160"):
        await backend.score(JUDGE, ["1 " * 200])


@pytest.mark.parametrize("decoder", ["autoregressive", "masked_diffusion"])
async def test_lengths_beyond_all_memory_are_refused_or_cut_before_anything_is_made(
    opened: Opener, decoder: str
) -> None:
    backend = opened(decoder=decoder)
    params = SamplingParams(max_tokens=10**12, seed=1)
    template = Template(SUDOKU, ("1 ", Blank(2**31 - 1), Blank(10**12 - 2**31)))
    if backend.capabilities.infill:
        tracemalloc.start()
        with pytest.raises(InputError, match="room for 160"):
            await backend.infill(template, params)
        with pytest.raises(InputError, match="room for 160"):
            await backend.generate(Request(prompt=template))
        with pytest.raises(InputError, match="room for 160"):
            await backend.edit(SUDOKU, "1 " * 200, params)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24
    (completion,) = await backend.generate(Request(prompt=PROPOSE, params=params))
    assert completion.usage.completion_tokens <= 160


def text_backend(decoder: str) -> LocalBackend:
    """A model of text that has learned nothing: one token for each byte, a mask, an end."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>", "<eos>"]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<mask>", "<eos>"])
    size, room = len(alphabet), 48
    language = TextLanguage(
        tokenizer=tokenizer, chat=None, vocab_size=size, eos_id=size - 1, context_length=room, mask_id=size - 2
    )
    torch.manual_seed(2)
    config = TransformerConfig(
        vocab_size=size, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_positions=room
    )
    return LocalBackend(Transformer(config).eval(), language, LocalOptions(decoder=decoder), backend_id="local:text")


@pytest.mark.parametrize("decoder", get_args(DecoderName))
async def test_a_text_model_writes_fills_and_edits_after_nothing(decoder: str) -> None:
    backend = text_backend(decoder)
    nothing = Prompt(())
    (written,) = await backend.generate(Request(prompt=nothing, params=SamplingParams(seed=1, max_tokens=100)))
    assert 0 < written.usage.completion_tokens < 48
    assert written.usage.prompt_tokens == 1
    if backend.capabilities.score:
        (score,) = await backend.score(nothing, ["ab"])
        assert len(score.tokens) == 2
    if backend.capabilities.infill:
        (filled,) = await backend.infill(Template(nothing, (Blank(3), "!")), SamplingParams(seed=1))
        assert filled.text.endswith("!")
        edit = await backend.edit(nothing, "abc")
        assert edit.rounds > 0
    await backend.aclose()


MASKED = {"decoder": "masked_diffusion"}
HYBRID = {"decoder": "hybrid"}


@pytest.mark.parametrize(
    ("usual", "changed"),
    [
        (MASKED, {"unmask": "quota", "steps": 2}),
        (MASKED, {"unmask": "random"}),
        (MASKED, {"threshold": 0.1}),
        (MASKED | {"threshold": 0.2}, {"fallback": "confident"}),
        (MASKED, {"guidance_scale": 1.5}),
        (MASKED | {"unmask": "quota"}, {"block_length": 3}),
        (HYBRID, {"alpha0": 0.9}),
        (HYBRID | {"alpha0": 0.9}, {"steps": 1}),
        (HYBRID, {"block_length": 40}),
        ({}, {"lines": 1}),
        ({}, {"dtype": "bfloat16"}),
        ({}, {"dtype": "float16"}),
    ],
)
async def test_every_option_has_an_effect(opened: Opener, usual: dict[str, Any], changed: dict[str, Any]) -> None:
    request = Request(prompt=PROPOSE, params=SamplingParams(seed=1, temperature=1.0, max_tokens=40), num_samples=6)
    before, after = [await opened(**options).generate(request) for options in (usual, usual | changed)]
    assert [(c.text, c.logprobs) for c in before] != [(c.text, c.logprobs) for c in after]


async def test_score_options_have_an_effect(opened: Opener) -> None:
    text = ["4 6: 10 no, 2 no\nsure"]
    totals = {
        (await opened(decoder="masked_diffusion", **options).score(JUDGE, text))[0].total
        for options in ({}, {"score_samples": 3}, {"score_seed": 9})
    }
    assert len(totals) == 3


async def test_cancelling_a_caller_leaves_the_others_alone(opened: Opener) -> None:
    backend = opened()
    request = Request(prompt=PROPOSE, params=SamplingParams(seed=1, max_tokens=40), num_samples=3)
    expected = await backend.generate(request)
    kept = asyncio.create_task(backend.generate(request))
    dropped = asyncio.create_task(backend.generate(Request(prompt=SUDOKU, num_samples=50)))
    await asyncio.sleep(0.002)
    dropped.cancel()
    assert [c.text for c in await kept] == [c.text for c in expected]
    assert dropped.cancelled() or dropped.cancelling()


def test_ids_open_models_and_errors_name_what_is_known(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "puzzles_weights", lambda further: weights)
    with pytest.raises(OptionError, match=r"unknown local model 'sudoku'; known: local:PATH, local:puzzles"):
        open_backend("sudoku", {})
    with pytest.raises(OptionError, match="known: alpha0"):
        open_backend("puzzles", {"temperature": "1"})
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="finds no CUDA device"):
            open_backend("puzzles", {"device": "cuda"})
    backend = open_backend("puzzles", {"decoder": "hybrid", "alpha0": "0.5", "device": "cpu"})
    assert backend.id == "local:puzzles?decoder=hybrid&alpha0=0.5&device=cpu"
    asyncio.run(backend.aclose())


def test_corrupted_weights_are_one_clear_line(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "puzzles.safetensors"
    broken.write_bytes(weights.read_bytes()[:-100])
    monkeypatch.setattr(local, "puzzles_weights", lambda further: broken)
    with pytest.raises(ModelFileError) as caught:
        open_backend("puzzles", {})
    assert "\n" not in str(caught.value)
    assert "truncated" in str(caught.value)
    assert caught.value.backend == "local:puzzles"


def test_a_missing_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == "torch" else real(name))
    with pytest.raises(MissingExtraError, match=r'pip install "llmprog\[local\]"'):
        open_backend("puzzles", {})
    assert "llmprog[local]" in local.list_backends()[0].missing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("decoder", DECODERS)
async def test_cuda_says_what_the_cpu_says(weights: Path, decoder: str) -> None:
    request = Request(prompt=PROPOSE, params=SamplingParams(seed=1, max_tokens=20), num_samples=8)
    texts = []
    for device in ("cpu", "cuda"):
        backend = LocalBackend.open(LocalOptions(device=device, decoder=decoder), weights=weights)
        texts.append([c.text for c in await backend.generate(request)])
        texts.append([round(s.total, 2) for s in await backend.score(JUDGE, ["sure", "4 6: 10 no\nlikely"])])
        await backend.aclose()
    assert texts[:2] == texts[2:]
