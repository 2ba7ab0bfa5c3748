"""How fast the local engine reads and writes, beside transformers and llama.cpp in the same run.

    python benchmarks/local_speed.py [--threads 2] [--rounds 3] [--only models | tree | puzzles]

models: SmolLM2-135M-Instruct, prompts of 256 tokens that share nothing, 48 new tokens each, greedily; tokens per
    second of reading (prefill) and of writing (decode), the best of some rounds, in which the contenders take turns.
    llmprog is called as users call it, through `open_backend`; transformers by `generate`; llama.cpp by its batched
    decoding of the same file, whose weights are Q4_1.
tree: a problem of some 400 tokens, 5 thoughts with 8 samples each, two levels deep: with the memory of texts read
    before, and without it.
puzzles: proposals of the embedded model per second, 8 prompts with 8 samples, for each decoder.

What is not installed is left out: pip install transformers; pip install llama-cpp-python.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from smollm2 import in_transformers, load_smollm2, smollm2_file

from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.backend import open_backend as open_local
from llmprog.backends.local.options import DecoderName
from llmprog.types import Prompt, Request, SamplingParams, total_usage

PROMPT_TOKENS = 256
NEW_TOKENS = 48
PEERS = ("transformers bf16", "llama.cpp Q4_1")
BATCHES = (1, 4, 16)

Contender = Callable[[Sequence[list[int]], int], float]
"""Reads prompts and writes so many tokens behind each; seconds."""


def prompts(batch: int, text_ids: Callable[[str], list[int]]) -> list[list[int]]:
    """Prompts of equal length that differ from the first token on."""
    story = "Then the road went on through the valley, past the mill and the old bridge, and nobody spoke for an hour. "
    return [text_ids(f"{i} {chr(97 + i)}. " + story * 16)[:PROMPT_TOKENS] for i in range(batch)]


class Ours:
    """llmprog's backend, called with text."""

    def __init__(self, threads: int, **options: str) -> None:
        fixed = {"dtype": "bfloat16", "threads": str(threads), "prefix_memory": "0", "chat_template": "off"}
        self.backend = open_local("smollm2", fixed | options)
        self.read: Callable[[Sequence[int]], str] = self.backend._language.decode

    def __call__(self, tokens: Sequence[list[int]], new: int) -> float:
        return asyncio.run(self._timed([self.read(ids) for ids in tokens], new))

    async def _timed(self, texts: Sequence[str], new: int) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=new)
        start = time.perf_counter()
        answers = await asyncio.gather(
            *(self.backend.generate(Request(prompt=Prompt.from_text(text), params=params)) for text in texts)
        )
        seconds = time.perf_counter() - start
        usage = total_usage([completion for answer in answers for completion in answer])
        if usage.completion_tokens != new * len(texts) or usage.prompt_tokens != PROMPT_TOKENS * len(texts):
            raise SystemExit(f"the texts were meant to be of equal length, and not to end: {usage}")
        return seconds


def transformers_contender() -> Contender:
    with tempfile.TemporaryDirectory() as directory:
        model = in_transformers(load_smollm2(torch.bfloat16), Path(directory), torch.bfloat16)

    @torch.inference_mode()
    def run(tokens: Sequence[list[int]], new: int) -> float:
        ids = torch.tensor(tokens)
        start = time.perf_counter()
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        seconds = time.perf_counter() - start
        if found.shape[1] != PROMPT_TOKENS + new:
            raise SystemExit(f"transformers wrote {found.shape[1] - PROMPT_TOKENS} tokens instead of {new}")
        return seconds

    return run


class LlamaCpp:
    """llama.cpp, its own batches: all prompts at once, then a token of each sequence per step."""

    def __init__(self, threads: int) -> None:
        import llama_cpp

        self._lib = llama_cpp
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(smollm2_file()).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(BATCHES) * (PROMPT_TOKENS + NEW_TOKENS + 16)
        params.n_batch = params.n_ubatch = 2048
        params.n_seq_max = max(BATCHES)
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def __call__(self, tokens: Sequence[list[int]], new: int) -> float:
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        start = time.perf_counter()
        last: list[int] = []
        group = 2048 // PROMPT_TOKENS
        for first in range(0, len(tokens), group):
            chosen = tokens[first : first + group]
            self._fill(
                [
                    (seq, i, token, i == PROMPT_TOKENS - 1)
                    for seq, ids in enumerate(chosen, first)
                    for i, token in enumerate(ids)
                ]
            )
            self._decode()
            last += self._likeliest(len(chosen), PROMPT_TOKENS)
        for step in range(new - 1):
            self._fill([(seq, PROMPT_TOKENS + step, token, True) for seq, token in enumerate(last)])
            self._decode()
            last = self._likeliest(len(last), 1)
        return time.perf_counter() - start

    def _fill(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (seq, position, token, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = seq, wanted

    def _decode(self) -> None:
        if self._lib.llama_decode(self._context, self._batch):
            raise SystemExit("llama.cpp could not decode")

    def _likeliest(self, count: int, stride: int) -> list[int]:
        found = []
        for i in range(count):
            logits = self._lib.llama_get_logits_ith(self._context, (i + 1) * stride - 1)
            found.append(int(np.ctypeslib.as_array(logits, shape=(self._size,)).argmax()))
        return found


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _quiet(level: int, text: bytes, data: int) -> None:
    """Take no notice of llama.cpp's log."""


def measure_models(threads: int, rounds: int, console: Console) -> None:
    ours = {
        "llmprog bf16": Ours(threads),
        "llmprog int8": Ours(threads, weights="int8"),
        "llmprog int4": Ours(threads, weights="int4"),
    }
    contenders: dict[str, Contender] = dict(ours)
    if find_spec("transformers"):
        contenders["transformers bf16"] = transformers_contender()
    if find_spec("llama_cpp"):
        contenders["llama.cpp Q4_1"] = LlamaCpp(threads)
    language = ours["llmprog bf16"].backend._language
    reading: dict[tuple[str, int], float] = {}
    writing: dict[tuple[str, int], float] = {}
    for batch in BATCHES:
        texts = prompts(batch, language.encode_text)
        for _ in range(rounds):
            for name, run in contenders.items():
                first = run(texts, 1)
                whole = run(texts, NEW_TOKENS)
                reading[name, batch] = max(reading.get((name, batch), 0), batch * PROMPT_TOKENS / first)
                rest = batch * (NEW_TOKENS - 1) / (whole - first)
                writing[name, batch] = max(writing.get((name, batch), 0), rest)
    table = Table(title=f"tokens/s on {threads} threads: {PROMPT_TOKENS} tokens read, {NEW_TOKENS} written", box=SIMPLE)
    table.add_column("SmolLM2-135M")
    for kind in ("read", "write"):
        for batch in BATCHES:
            table.add_column(f"{kind} ×{batch}", justify="right")
    for name in contenders:
        table.add_row(name, *(f"{found[name, batch]:.0f}" for found in (reading, writing) for batch in BATCHES))
    for peer in PEERS:
        if peer in contenders:
            ratios = [
                max(found[name, batch] for name in ours) / found[peer, batch]
                for found in (reading, writing)
                for batch in BATCHES
            ]
            table.add_row(f"best / {peer.split()[0]}", *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
    for contender in ours.values():
        asyncio.run(contender.backend.aclose())


def measure_tree(threads: int, rounds: int, console: Console) -> None:
    table = Table(title="a tree of thoughts, 2 levels of 5 × 8 samples", box=SIMPLE)
    for name in ("", "seconds", "prompt tokens", "not computed"):
        table.add_column(name, justify="left" if not name else "right")
    for name, memory in (("texts read before are kept", 512), ("not kept", 0)):
        best, saved, tokens = float("inf"), 0.0, 0
        for _ in range(rounds):
            options = {"dtype": "bfloat16", "threads": str(threads), "prefix_memory": str(memory)}
            backend = open_local("smollm2", options)
            start = time.perf_counter()
            asyncio.run(grow_tree(backend))
            best = min(best, time.perf_counter() - start)
            statistics = backend.statistics
            saved, tokens = statistics.prefill_saved or 0.0, statistics.prompt_tokens or 0
            asyncio.run(backend.aclose())
        table.add_row(name, f"{best:.2f}", f"{tokens:,}", f"{saved:.0%}")
    console.print(table)


async def grow_tree(backend: LocalBackend) -> None:
    """Each level asks about five thoughts at once; the thoughts of the second go on from samples of the first."""
    problem = "Plan a day in a small town. " + "There is a mill, a library and a market; buses leave at noon. " * 24
    params = SamplingParams(temperature=0.8, max_tokens=24, seed=1)
    thoughts = [f"Plan {i + 1} begins with" for i in range(5)]
    for _ in range(2):
        requests = [
            Request(prompt=Prompt.from_text(f"{problem}\nThoughts so far: {thought}"), params=params, num_samples=8)
            for thought in thoughts
        ]
        answers = await asyncio.gather(*map(backend.generate, requests))
        thoughts = [f"{thought} {answer[0].text}" for thought, answer in zip(thoughts, answers, strict=True)]


def measure_puzzles(threads: int, rounds: int, console: Console) -> None:
    table = Table(title="local:puzzles, 8 prompts with 8 samples", box=SIMPLE)
    table.add_column("decoder")
    table.add_column("lines proposed/s", justify="right")
    for decoder in get_args(DecoderName):
        backend = open_local("puzzles", {"decoder": decoder, "threads": str(threads)})
        best = max(asyncio.run(propose(backend)) for _ in range(rounds))
        asyncio.run(backend.aclose())
        table.add_row(decoder, f"{best:.0f}")
    console.print(table)


async def propose(backend: LocalBackend) -> float:
    params = SamplingParams(temperature=0.7, seed=2)
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            backend.generate(
                Request(
                    prompt=Prompt.from_text(f"Input: {i % 9 + 1} {i % 7 + 2} 10 13\nPossible next steps:"),
                    params=params,
                    num_samples=8,
                )
            )
            for i in range(8)
        )
    )
    lines = sum(len(completion.text.strip().splitlines()) for answer in answers for completion in answer)
    return lines / (time.perf_counter() - start)


MEASUREMENTS = {"models": measure_models, "tree": measure_tree, "puzzles": measure_puzzles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=MEASUREMENTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    console.width = max(console.width, 96)  # the widest table
    for name, measure in MEASUREMENTS.items():
        if options.only in (None, name):
            measure(options.threads, options.rounds, console)


if __name__ == "__main__":
    main()
