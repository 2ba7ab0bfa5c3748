"""All that needs a GPU, in one table: its tests, the kernels against torch, and an 8B-shaped model against its bounds.

The model has LLaDA-8B's shape and random weights, made on the device: how fast it runs does not depend on what it says.
Masked diffusion reveals r tokens per forward pass of a block of 32 at context 1024, without a cache and with the dual
cache; from left to right it writes one token per row and pass. The bound is the time to read weights and cache, or to
multiply by them (``roofline.py``); refreshing the cache and the prompt are part of what is measured, not of the bound.

Without a CUDA device, kernels are compiled for sm_90 and their references run. ``--smoke`` runs all of it on any
device with a tiny model, so that this script itself is tested. A test that fails, or a kernel that does not do what
its reference does, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from roofline import LLADA_8B, Speed, forward_s, seconds_of, speed_of
from torch import Tensor

from llmprog.backends.local import kernels
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Decoder, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.cached_diffusion import CacheOptions
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.kernels import compiler, predict, reveal
from llmprog.backends.local.kernels.predict import reference as predict_reference
from llmprog.backends.local.kernels.reveal import reference as reveal_reference
from llmprog.backends.local.networks.cuda_graphs import CaptureOnCuda, GraphedTransformer
from llmprog.backends.local.networks.fused_layers import fuse_layers
from llmprog.backends.local.networks.quantization import quantize
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig, rope_tables
from llmprog.backends.local.options import StoredWeights
from llmprog.errors import MissingExtraError, OptionError
from llmprog.types import SamplingParams

ROOT = Path(__file__).parents[1]
SEED = 0
QUANTISED: dict[StoredWeights, float] = {"int8": 1.0, "int4": 0.625}  # bytes of a weight, its scales included
LEAST_SAME = 0.95  # share of positions at which a kernel says what torch says: rounding may decide between equals
KV_MIB = 64 * 1024  # 64 rows at context 1024 take half of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is run."""

    config: TransformerConfig
    context: int
    block: int
    reply: int
    kernel_rows: tuple[int, ...]
    batches: tuple[int, ...]


FULL = Size(config=LLADA_8B, context=1024, block=32, reply=128, kernel_rows=(1, 64), batches=(1, 16, 64))
SMOKE = Size(
    config=replace(LLADA_8B, vocab_size=300, d_model=64, num_layers=2, num_heads=4, num_kv_heads=4, d_ff=96),
    context=48,
    block=8,
    reply=16,
    kernel_rows=(1, 4),
    batches=(1, 3),
)


def line(what: str, measured: str, against: str = "", share: str = "") -> None:
    """Print one line of the table."""
    print(f"{what:<50}{measured:>18}{against:>22}{share:>10}", flush=True)


def run_tests() -> bool:
    """Run the tests that need a GPU; whether they pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "backends"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own tests
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last))
    line("tests that need a GPU", counts or last)
    if done.returncode:
        print(done.stdout[-4000:])
    return done.returncode == 0


def compile_all() -> None:
    """Compile the kernels for Hopper, which needs no device."""
    for file in ("predict.cu", "reveal.cu"):
        try:
            _, usage = compiler.compile_kernels(file, "sm_90")
        except MissingExtraError as error:
            line(f"compile {file}", "not done", str(error))
            continue
        for name, used in usage.items():
            line(f"compile {name} for sm_90", f"{used.registers} registers", f"{used.spilled_bytes} bytes spilled")


def compare_kernels(size: Size, device: torch.device) -> bool:
    """Time the kernels and their references on the same inputs; whether they do the same."""
    torch.manual_seed(SEED)
    is_right = True
    vocab, columns = size.config.vocab_size, size.block
    for rows in size.kernel_rows:
        arguments = (
            torch.randn(rows, columns, vocab, device=device, dtype=torch.bfloat16) * 4,
            torch.zeros(1, vocab, dtype=torch.bool, device=device),
            torch.arange(rows, device=device),
            torch.arange(rows * columns, device=device).view(rows, columns),
            torch.arange(rows, device=device) % 2 * 0.7,
            torch.zeros(rows, device=device),
        )
        said, truth = predict(*arguments), predict_reference(*arguments)
        took = seconds_of(lambda values=arguments: predict(*values), device)
        slow = seconds_of(lambda values=arguments: predict_reference(*values), device)
        same = float((said.tokens == truth.tokens).float().mean())
        is_right &= same >= LEAST_SAME
        name = f"predict, {rows} x {columns} positions, same {same:.2%}"
        line(name, f"{took * 1e6:.0f} us", f"torch {slow * 1e6:.0f} us", f"{slow / took:.1f}x")

        places = torch.arange(columns, device=device).expand(rows, -1)
        eligible = torch.rand(rows, columns, device=device) < 0.8
        count = torch.full((rows,), 4, device=device)
        canvas = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        other = canvas.clone()
        rest = (said.tokens, said.confidence, places, eligible, count)
        took = seconds_of(lambda to=canvas, values=rest: reveal(to, *values, threshold=0.9), device)
        slow = seconds_of(lambda to=other, values=rest: reveal_reference(to, *values, 0.9, False), device)
        is_equal = torch.equal(canvas, other)
        is_right &= is_equal
        name = f"reveal, {rows} rows, {'same' if is_equal else 'NOT THE SAME'}"
        line(name, f"{took * 1e6:.0f} us", f"torch {slow * 1e6:.0f} us", f"{slow / took:.1f}x")
    return is_right


@torch.no_grad()
def random_model(config: TransformerConfig, device: torch.device, weights: StoredWeights | None = None) -> Transformer:
    """A model with random bfloat16 weights, made where they stay, or with what they are rounded to."""
    with torch.device("meta"):
        model = Transformer(config).to(torch.bfloat16).requires_grad_(False).eval()
    model.to_empty(device=device)
    torch.manual_seed(SEED)
    for weight in model.parameters():
        if weight.dim() == 1:
            weight.fill_(1.0)
        else:
            weight.normal_(std=1 / math.sqrt(weight.shape[-1]))
    cos, sin = rope_tables(config)
    model.rope_cos, model.rope_sin = cos.to(device), sin.to(device)
    return fuse_layers(model) if weights is None else quantize(model, weights)


def eager(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What stands for a CUDA graph where there is no CUDA: the function itself."""
    return run


def vocabulary_of(config: TransformerConfig) -> Vocabulary:
    """The last four ids serve as LLaDA's special tokens do."""
    mask, eos, pad = (config.vocab_size - number for number in (1, 2, 3))
    return Vocabulary(size=config.vocab_size, mask_id=mask, eos_id=eos, pad_id=pad, never_sampled=(mask, pad))


def rows_of(size: Size, vocabulary: Vocabulary, count: int, length: int) -> list[Row]:
    """Rows of different prompts that fill the context, of which none may end early."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (count, size.context - length)
    prompts = torch.randint(0, size.config.vocab_size - 4, shape, generator=generator).tolist()
    return [
        Row(
            prompt=tuple(prompt),
            canvas=(vocabulary.mask_id,) * length,
            key=number,
            block_length=size.block,
            params=SamplingParams(temperature=0.0, max_tokens=length),
            may_end=False,
        )
        for number, prompt in enumerate(prompts)
    ]


def tokens_per_s(decoder: Decoder, rows: list[Row], device: torch.device) -> float:
    """Tokens written per second, prompts included in the time."""
    took = seconds_of(lambda: write_all(decoder, rows), device, repeats=2)
    return sum(len(row.canvas) for row in rows) / took


def measure_diffusion(size: Size, models: dict[str, Transformer], speed: Speed, device: torch.device) -> None:
    """One stream of masked diffusion, r tokens revealed per forward pass."""
    vocabulary = vocabulary_of(size.config)
    rows = rows_of(size, vocabulary, 1, size.reply)
    for cache in (None, CacheOptions(kind="dual")):
        fed = size.context if cache is None else size.block
        least = forward_s(size.config, speed, fed=fed, attended=size.context)
        for name, model in models.items():
            for revealed in (1, 2, 4, 8):
                options = UnmaskOptions(unmask="quota", steps=size.block // revealed)
                found = tokens_per_s(MaskedDiffusionDecoder(model, vocabulary, options, cache=cache), rows, device)
                what = f"LLaDA, {'no cache' if cache is None else 'dual cache'}, r={revealed}, {name}"
                report(what, found, revealed / least)


def measure_autoregressive(
    size: Size, model: Transformer, what: str, speed: Speed, device: torch.device, weight_bytes: float = 2.0
) -> None:
    """Rows from left to right; the time of the prompts is measured with one token and taken away."""
    vocabulary = vocabulary_of(size.config)
    decoder = AutoregressiveDecoder(model, vocabulary, kv_memory=KV_MIB, prefix_memory=0)
    for count in size.batches:
        least = forward_s(size.config, speed, fed=1, attended=size.context, rows=count, weight_bytes=weight_bytes)
        rows = rows_of(size, vocabulary, count, size.reply)
        short = [replace(row, canvas=row.canvas[:1]) for row in rows]
        whole = seconds_of(lambda r=rows: write_all(decoder, r), device, repeats=1)
        prompts = seconds_of(lambda r=short: write_all(decoder, r), device, repeats=1)
        found = count * (size.reply - 1) / max(whole - prompts, 1e-9)
        report(f"left to right, {count} rows, {what}", found, count / least)


def report(what: str, found: float, bound: float) -> None:
    """One line: tokens per second, the bound, the share reached."""
    line(what, f"{found:.0f} tokens/s", f"bound {bound:.0f}", f"{found / bound:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny model on whatever device there is")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests that need a GPU")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else "none"
    print(f"GPU: {name}; torch {torch.__version__}; kernels {'on' if kernels.is_available(device) else 'off'}")
    compile_all()
    if not on_cuda and not options.smoke:
        is_right = compare_kernels(SMOKE, device)
        print("no CUDA device: kernels are compiled and their references run; tests and speed need a device")
        sys.exit(0 if is_right else 1)
    is_right = not on_cuda or options.no_tests or run_tests()
    size = SMOKE if options.smoke else FULL
    speed = speed_of(device)
    source = "measured" if speed.is_measured else "data sheet"
    line("memory, products", f"{speed.bytes_per_s / 1e12:.2f} TB/s", f"{speed.flops_per_s / 1e12:.0f} TFLOP/s", source)
    is_right &= compare_kernels(size, device)
    model = random_model(size.config, device)
    graphed = GraphedTransformer(model, is_required=True, capture=CaptureOnCuda() if on_cuda else eager)
    measure_diffusion(size, {"eager": model, "graphs": graphed}, speed, device)
    measure_autoregressive(size, model, "eager", speed, device)
    measure_autoregressive(size, graphed, "graphs", speed, device)
    del model, graphed
    for weights, weight_bytes in QUANTISED.items():
        try:
            model = random_model(size.config, device, weights)
        except (MissingExtraError, OptionError) as error:
            line(f"left to right, {weights}", "not done", str(error))
            continue
        quantised = GraphedTransformer(model, is_required=True, capture=CaptureOnCuda() if on_cuda else eager)
        measure_autoregressive(size, quantised, f"{weights}, graphs", speed, device, weight_bytes)
    if on_cuda:
        line("most GPU memory taken", f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
