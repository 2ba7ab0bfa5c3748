"""Whether the local engine computes what it should: networks, caches, batches and decoding, each against another way.

    python benchmarks/local_parity.py          # everything; about a minute, with SmolLM2's weights and transformers
    python benchmarks/local_parity.py --fast   # what needs neither: tiny random models and the embedded one

* *SmolLM2*: its GGUF weights, written as a Hugging Face directory that ``transformers`` loads. Greedy replies are equal
  if ``transformers``, fed each of them whole, would have said every token of it.
* *cache*: what a decoder writes with its cache, and what it writes when each step computes the whole past.
* *batch*: rows of different lengths written together, prompts padded, and each alone.
* *Eso-LM B, training*: the logits of its double-length training mask, and those of writing in the same random order.
* *LLaDA*, *Dream*, *MDLM*: random tiny checkpoints, loaded, and the same tensors written out slowly in float64
  (``written_out.py``): the network's logits, and what is decoded by each rule.
* *transformers' networks*: random tiny models of families that are not read natively, against their own forward.

SmolLM2 and the embedded model have the form in which they run: fused layers, as ``LocalBackend.open`` makes them.
Tokens have to be equal; logits may differ by rounding. A line that fails makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import written_out
from rich.console import Console
from rich.table import Table
from smollm2 import in_transformers, load_smollm2
from torch import Tensor

from llmprog.backends.local.checkpoints.families import FAMILIES
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Decoder, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.block_diffusion import BlockDiffusionDecoder
from llmprog.backends.local.decoders.hybrid import HybridDecoder
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.preparing import prepare
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.sampling import Sampler, stream_key
from llmprog.types import Prompt, SamplingParams
from llmprog_puzzles import WEIGHTS

QUESTIONS = (
    "What is the capital of France?", "Name three animals.", "Write one sentence about rain.", "What is 2 + 2?",
    "Who wrote Hamlet?", "Translate 'good morning' into Spanish.", "Explain gravity to a child.", "List two colours.",
    "What is water made of?", "Give a synonym of happy.", "How many days has a week?", "What do bees make?",
    "Name a planet.", "What is the opposite of hot?", "Write a haiku about the sea.", "What is a prime number?",
    "Why is the sky blue?", "Name a musical instrument.", "What is the largest ocean?", "How do you make tea?",
)  # fmt: skip
REPLY = 24
MASK, END = 60, 2
LLADA: dict[str, Any] = {
    "model_type": "llada", "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 48,
    "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "max_sequence_length": 96, "vocab_size": 64, "weight_tying": False,
    "mask_token_id": MASK, "eos_token_id": END,
}  # fmt: skip
MDLM: dict[str, Any] = {
    "model_type": "mdlm", "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 4, "model_length": 64,
    "vocab_size": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table; ``difference`` is the largest of logits, ``None`` where only tokens are compared."""

    what: str
    equal: int
    of: int
    difference: float | None = None
    bound: float = 0.0

    @property
    def is_right(self) -> bool:
        return self.equal == self.of and (self.difference is None or self.difference <= self.bound)


def rows_of(
    prompts: Sequence[tuple[int, ...]], length: int, *, mask_id: int, samples: int = 1, **about: Any
) -> list[Row]:
    params = SamplingParams(temperature=about.pop("temperature", 0.0))
    return [
        Row(
            prompt=prompt,
            canvas=(mask_id,) * (length + 2 * (i % 3)),
            key=stream_key(7, repr(prompt).encode(), sample),
            params=params,
            **about,
        )
        for i, prompt in enumerate(prompts)
        for sample in range(samples)
    ]


def same(
    what: str, ours: Sequence[Any], others: Sequence[Any], difference: float | None = None, bound: float = 0.0
) -> Result:
    equal = sum(a == b for a, b in zip(ours, others, strict=True))
    return Result(what=what, equal=equal, of=len(ours), difference=difference, bound=bound)


def written(decoder: Decoder, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    return [result.tokens for result in write_all(decoder, rows)]


def one_by_one(decoder: Decoder, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    return [tokens for row in rows for tokens in written(decoder, [row])]


# ------------------------------------------------------------------------------------------------ SmolLM2


def smollm2(directory: Path) -> Iterator[Result]:
    loaded = load_smollm2()
    model, language = loaded.model, loaded.language
    vocabulary = language.vocabulary
    reference = in_transformers(loaded, directory)
    model = prepare(model, LocalOptions())
    prompts = [language.encode(Prompt.from_text(question), LocalOptions()).tokens for question in QUESTIONS]
    rows = rows_of(prompts, REPLY, mask_id=-1)
    decoder = AutoregressiveDecoder(model, vocabulary)
    results = write_all(decoder, rows)
    said, largest = [], 0.0
    with torch.inference_mode():
        for row, result in zip(rows, results, strict=True):
            reply = [*result.tokens, *[vocabulary.eos_id] * result.ended]
            text = torch.tensor([[*row.prompt, *reply]])
            theirs = reference(text).logits[0]
            mask = attention_masks.causal(text.shape[1])
            ours = model(text, torch.arange(text.shape[1]).unsqueeze(0), mask)[0]
            largest = max(largest, (ours - theirs).abs().max().item())
            chosen = theirs[len(row.prompt) - 1 : -1].argmax(-1).tolist()
            said.append(chosen == reply)
        generated = reference.generate(
            torch.tensor([prompts[0]]), max_new_tokens=REPLY, do_sample=False, pad_token_id=vocabulary.eos_id
        )[0, len(prompts[0]) :].tolist()
    yield Result(what="SmolLM2, greedy, transformers on the same weights", equal=sum(said), of=len(said),
                 difference=largest, bound=2e-3)  # fmt: skip
    end = next((i for i, token in enumerate(generated) if token in vocabulary.end_ids), len(generated))
    yield same("SmolLM2, greedy, transformers' own generate", [results[0].tokens], [tuple(generated[:end])])

    few = rows_of(prompts[:4], 10, mask_id=-1, temperature=0.8)
    together = written(AutoregressiveDecoder(model, vocabulary), few)
    yield same("SmolLM2, batch against single", together, one_by_one(AutoregressiveDecoder(model, vocabulary), few))
    yield same("SmolLM2, KV cache against none", together, [uncached(model, vocabulary, row) for row in few])


@torch.inference_mode()
def uncached(model: Transformer, vocabulary: Vocabulary, row: Row) -> tuple[int, ...]:
    """What the autoregressive decoder writes, every step computing all that stands before it."""
    sampler = Sampler.of([row.params], [row.key], torch.device("cpu"))
    text = list(row.prompt)
    for step in range(len(row.canvas)):
        tokens = torch.tensor([text])
        positions = torch.arange(len(text)).unsqueeze(0)
        logits = model(tokens, positions, attention_masks.causal(len(text)), output=slice(-1, None))[:, 0].float()
        logits[:, list(vocabulary.never_sampled)] = -torch.inf
        token = int(sampler.sample(logits, step))
        if token in vocabulary.end_ids:
            break
        text.append(token)
    return tuple(text[len(row.prompt) :])


@torch.inference_mode()
def hosted() -> Iterator[Result]:
    """Networks that ``transformers`` computes, on our masks and in our caches, against their own forward."""
    import transformers

    from llmprog.backends.local.checkpoints.hosted import sizes
    from llmprog.backends.local.networks.hosted_model import HostedModel

    shared = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
              "num_attention_heads": 4, "max_position_embeddings": 128}  # fmt: skip
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    latent = {"q_lora_rank": 16, "kv_lora_rank": 12, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 10,
              "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
              "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}  # fmt: skip
    configs = {
        "DeepSeek-V3": transformers.DeepseekV3Config(**shared, **latent),
        "Gemma 3": transformers.Gemma3TextConfig(
            **shared, num_key_value_heads=2, head_dim=16, sliding_window=6, layer_types=kinds
        ),
        "Mistral, window": transformers.MistralConfig(**shared, num_key_value_heads=2, sliding_window=6),
    }
    tokens = torch.randint(0, 64, (2, 30), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(30).unsqueeze(0)
    for name, config in configs.items():
        torch.manual_seed(3)
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
        ours = HostedModel(theirs, sizes(theirs))
        cache = ours.make_cache(2)
        parts = [
            ours(tokens[:, a:b], positions[:, a:b], attention_masks.causal(b - a, a), cache)
            for a, b in ((0, 9), (9, 10), (10, 24), (24, 30))
        ]
        found, expected = torch.cat(parts, 1), theirs(tokens).logits
        chosen, wanted = found.argmax(-1).flatten().tolist(), expected.argmax(-1).flatten().tolist()
        yield same(f"{name} in transformers, our cache", chosen, wanted, (found - expected).abs().max().item(), 1e-4)


# ------------------------------------------------------------------------------------------------ caches and batches


def caches() -> Iterator[Result]:
    tokenizer = PuzzleTokenizer()
    vocabulary = tokenizer.vocabulary
    model = load_weights(WEIGHTS, backend="local:puzzles")
    model = prepare(model, LocalOptions())
    texts = ("Input: 4 9 10 13\nPossible next steps:", "Evaluate if these can reach 24.\n4 6 7", "Input: 1 2 3\nSteps:")

    def prompts(decoder: str) -> list[tuple[int, ...]]:
        return [tokenizer.encode(Prompt.from_text(text), LocalOptions(decoder=decoder)).tokens for text in texts]

    rows = rows_of(prompts("autoregressive"), 30, mask_id=vocabulary.mask_id, samples=3, temperature=1.0)
    together = written(AutoregressiveDecoder(model, vocabulary), rows)
    yield same("autoregressive, KV cache against none", together, [uncached(model, vocabulary, row) for row in rows])
    yield same(
        "autoregressive, batch against single", together, one_by_one(AutoregressiveDecoder(model, vocabulary), rows)
    )
    for alpha0 in (0.0, 0.3, 1.0):
        rows = rows_of(prompts("hybrid"), 26, mask_id=vocabulary.mask_id, samples=3, temperature=1.0, block_length=9)
        decoders = [HybridDecoder(model, vocabulary, alpha0=alpha0, use_cache=use) for use in (True, False)]
        together = written(decoders[0], rows)
        yield same(f"Eso-LM B, alpha0={alpha0}, cache against none", together, written(decoders[1], rows))
        yield same(f"Eso-LM B, alpha0={alpha0}, batch against single", together, one_by_one(decoders[0], rows))
    rows = rows_of(
        prompts("masked_diffusion"), 26, mask_id=vocabulary.mask_id, samples=3, temperature=1.0, block_length=9
    )
    masked = MaskedDiffusionDecoder(model, vocabulary)
    yield same("masked diffusion, batch against single", written(masked, rows), one_by_one(masked, rows))
    yield training_mask(model, prompts("hybrid"), vocabulary)
    yield from block_caches()


def block_caches() -> Iterator[Result]:
    """Decoders whose weights are not those of the embedded model, on a tiny random one."""
    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_positions=96
    )
    model = Transformer(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.mul_(3 if "proj" in name else 1)
    model.embedding.weight.mul_(0.3)
    vocabulary = Vocabulary(size=64, mask_id=MASK, eos_id=END, pad_id=0, never_sampled=(0, MASK))
    rows = rows_of(
        [(5, 6, 7), (9,), (4, 8, 15, 16, 23, 40)], 14, mask_id=MASK, samples=1, temperature=1.0, block_length=5
    )
    options = UnmaskOptions(unmask="quota", steps=3)
    makers: Mapping[str, Callable[[bool], Decoder]] = {
        "block diffusion": lambda use: BlockDiffusionDecoder(model, vocabulary, options, use_cache=use),
        # Its network is shown its own predictions 32 times over, which lets the rounding of float32 grow.
        "uniform diffusion, float64": lambda use: UniformDiffusionDecoder(model.double(), vocabulary, use_cache=use),
    }
    for name, make in makers.items():
        together = written(make(True), rows)
        yield same(f"{name}, cache against none", together, written(make(False), rows))
        yield same(f"{name}, batch against single", together, one_by_one(make(True), rows))


@torch.inference_mode()
def training_mask(model: Transformer, prompts: Sequence[tuple[int, ...]], vocabulary: Vocabulary) -> Result:
    """Eso-LM B in a random order: the sequential phase of its training, and one token after the other."""
    generator = torch.Generator().manual_seed(5)
    largest, equal, count = 0.0, 0, 0
    for prompt in prompts:
        length, head = 16, len(prompt)
        text = torch.randint(8, vocabulary.size - 8, (length,), generator=generator)
        order = torch.randperm(length, generator=generator)
        rank = torch.cat([torch.arange(head), head + order.argsort()]).unsqueeze(0)
        clean = torch.cat([torch.tensor(prompt), text]).unsqueeze(0)
        positions = torch.arange(head + length).unsqueeze(0)
        trained = model(
            torch.cat([clean, torch.full_like(clean, vocabulary.mask_id)], dim=1),
            torch.cat([positions, positions], dim=1),
            attention_masks.esolm_sequential(rank),
            output=slice(head + length, None),
        )[0]
        for i, place in enumerate(order.tolist()):
            known = order[:i]
            fed = torch.cat([clean[0, :head], text[known], torch.tensor([vocabulary.mask_id])]).unsqueeze(0)
            where = torch.cat([torch.arange(head), head + known, torch.tensor([head + place])]).unsqueeze(0)
            step = model(fed, where, attention_masks.causal(fed.shape[1]), output=slice(-1, None))[0, 0]
            largest = max(largest, (step - trained[head + place]).abs().max().item())
            equal += int(step.argmax() == trained[head + place].argmax())
            count += 1
    return Result(
        what="Eso-LM B, training mask against sampling", equal=equal, of=count, difference=largest, bound=1e-3
    )


# ------------------------------------------------------------------------------------------------ written out


def tiny(config: Mapping[str, Any]) -> tuple[Transformer, dict[str, Tensor]]:
    """A random network of a checkpoint's form in float64, and its tensors."""
    generator = torch.Generator().manual_seed(7)
    recipe = FAMILIES[config["model_type"]](config)
    tensors = {
        name: torch.randn(shape, generator=generator).double() * 0.3 + (1.0 if "norm" in name else 0.0)
        for name, shape in recipe.shapes.items()
    }
    return recipe.build(iter(tensors.items()), "cpu", torch.float64), tensors


@torch.inference_mode()
def full(model: Transformer, tokens: Sequence[int]) -> Tensor:
    text = torch.tensor([list(tokens)])
    mask = torch.ones(1, text.shape[1], text.shape[1], dtype=torch.bool)
    return model(text, torch.arange(text.shape[1]).unsqueeze(0), mask)[0]


def references() -> Iterator[Result]:
    text = [5, 9, 33, MASK, 5, MASK, MASK, 14, 20]
    llada, tensors = tiny(LLADA)
    dit, dit_tensors = tiny(MDLM)

    def slow(tokens: Sequence[int]) -> Tensor:
        return written_out.llada_logits(tensors, LLADA, tokens)

    for name, found, expected in (
        ("LLaDA, network against float64", full(llada, text), slow(text)),
        ("MDLM, folded network against float64", full(dit, text), written_out.dit_logits(dit_tensors, MDLM, text)),
    ):
        chosen, wanted = found.argmax(-1).tolist(), expected.argmax(-1).tolist()
        yield same(name, chosen, wanted, (found - expected).abs().max().item(), 1e-5)

    vocabulary = Vocabulary(size=64, mask_id=MASK, eos_id=END, pad_id=0, never_sampled=(0, MASK))
    prompts = [(5, 6, 7, 40), (9,), (11, 3, 8, 20, 21, 50, 12)]
    for what, steps, block_length, guidance, is_shifted in (
        ("one block, 12 steps", 12, 12, 0.0, False),
        ("blocks of 4, 1 step each", 1, 4, 0.0, False),
        ("blocks of 6, quota of 4 steps", 4, 6, 0.0, False),
        ("blocks of 4, guidance 0.7", 2, 4, 0.7, False),
        ("blocks of 4, logits shifted (Dream)", 2, 4, 0.0, True),
    ):
        options = UnmaskOptions(unmask="quota", steps=steps, guidance_scale=guidance)
        decoder = MaskedDiffusionDecoder(llada, vocabulary, options, shift_logits=is_shifted)
        rows = [
            Row(
                prompt=prompt,
                canvas=(MASK,) * 12,
                key=1,
                block_length=block_length,
                may_end=False,
                params=SamplingParams(temperature=0.0),
            )
            for prompt in prompts
        ]
        expected = [
            tuple(
                written_out.llada_canvas(
                    slow, prompt, length=12, block_length=block_length, steps=steps, mask_id=MASK,
                    forbidden=(0, MASK, END), guidance=guidance, is_shifted=is_shifted,
                )
            )
            for prompt in prompts
        ]  # fmt: skip
        yield same(f"LLaDA, {what}, against float64", written(decoder, rows), expected)


def run(sections: Sequence[Iterator[Result]], console: Console) -> bool:
    table = Table(title="What is computed, against another way to compute it")
    for name in ("comparison", "equal", "largest difference of logits", "seconds", ""):
        table.add_column(name, justify="left" if name == "comparison" else "right")
    is_right = True
    for section in sections:
        start = time.perf_counter()
        for result in section:
            took, start = time.perf_counter() - start, time.perf_counter()
            is_right &= result.is_right
            difference = "" if result.difference is None else f"{result.difference:.1e}"
            equal = f"{result.equal} of {result.of}"
            table.add_row(result.what, equal, difference, f"{took:.1f}", "ok" if result.is_right else "WRONG")
    console.print(table)
    return is_right


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="tiny random models and the embedded one only")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one operation (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        sections = [caches(), references()]
        if not arguments.fast:
            sections = [smollm2(Path(directory)), *sections, hosted()]
        sys.exit(0 if run(sections, Console(width=120)) else 1)


if __name__ == "__main__":
    main()
