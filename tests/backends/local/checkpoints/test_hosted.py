"""Networks that transformers computes: the same logits as by its own masks and caches, whatever ours feed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers = pytest.importorskip("transformers")

from llmprog import Prompt  # noqa: E402 - behind what decides whether there is anything to test
from llmprog.backends import open_backend  # noqa: E402
from llmprog.backends.local.checkpoints.hosted import sizes  # noqa: E402
from llmprog.backends.local.checkpoints.loading import load_text_model  # noqa: E402
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder  # noqa: E402
from llmprog.backends.local.decoders.base import Row, write_all  # noqa: E402
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder, UniformOptions  # noqa: E402
from llmprog.backends.local.faults import FaultyFileError  # noqa: E402
from llmprog.backends.local.networks import attention_masks  # noqa: E402
from llmprog.backends.local.networks.hosted_model import HostedModel, within  # noqa: E402
from llmprog.errors import ModelFileError, OptionError  # noqa: E402
from llmprog.types import Request, SamplingParams  # noqa: E402

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "num_key_value_heads": 4,
}
FAMILIES = {
    "deepseek_v3": ("DeepseekV3Config", LATENT | EXPERTS),
    "deepseek_v2": ("DeepseekV2Config", LATENT | EXPERTS | {"topk_method": "greedy"}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "sliding_window": 6, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}),
    "yarn": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 10000.0,
            }
        },
    ),
    "gemma4": (
        "Gemma4TextConfig",
        {
            "head_dim": 16,
            "global_head_dim": 24,
            "sliding_window": 6,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 8,
        },
    ),
    "gemma3 with pictures": (
        "Gemma3Config",
        {
            "text_config": SIZES
            | {"head_dim": 16, "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"] * 2}
            | {"num_hidden_layers": 4},
            "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
            | {"intermediate_size": 16, "patch_size": 14},
            "mm_tokens_per_image": 4,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}


def write(directory, family):
    """A random model in ``directory`` with a tokenizer of letters, and the model itself."""
    name, options = FAMILIES[family]
    torch.manual_seed(3)
    sizes = {"bos_token_id": 1, "eos_token_id": 2} if "text_config" in options else SIZES
    if family == "gpt2":
        sizes = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, name)(**sizes | options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


def write_tokenizer(directory):
    letters = ["<pad>", "<s>", "</s>", *map(chr, range(ord("!"), ord("!") + 59))]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in letters[:3]])
    tokenizer.save(str(directory / "tokenizer.json"))


def loaded(directory):
    return load_text_model(directory, backend="local:x", device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_its_own_forward_cached_or_not(tmp_path, family):
    reference = write(tmp_path, family)
    model = loaded(tmp_path).model
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        expected = reference(tokens).logits
        torch.testing.assert_close(model(tokens, positions, attention_masks.causal(20)), expected, rtol=1e-4, atol=1e-4)
        cache = model.make_cache(2)
        parts = []
        for start, end in ((0, 7), (7, 8), (8, 17), (17, 20)):
            mask = attention_masks.causal(end - start, start)
            parts.append(model(tokens[:, start:end], positions[:, start:end], mask, cache))
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)
        chosen = model(tokens, positions, attention_masks.causal(20), output=torch.tensor([[3, 19], [5, 0]]))
        torch.testing.assert_close(chosen[1, 0], expected[1, 5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["deepseek_v3", "gemma3", "mistral"])
def test_rows_of_any_length_are_written_together_as_the_library_writes_each(tmp_path, family):
    reference = write(tmp_path, family)
    found = loaded(tmp_path)
    prompts = [(5, 6, 7, 40, 8, 9, 11, 12, 3), (9,), (11, 3, 8, 20), (9, 10)]
    rows = [
        Row(prompt=prompt, canvas=(-1,) * 12, key=1, params=SamplingParams(temperature=0.0), may_end=False)
        for prompt in prompts
    ]
    vocabulary = found.language.vocabulary
    forbidden = [*vocabulary.never_sampled, *vocabulary.end_ids]
    for prompt, result in zip(prompts, write_all(AutoregressiveDecoder(found.model, vocabulary), rows), strict=True):
        text = list(prompt)
        with torch.inference_mode():
            for _ in range(12):
                logits = reference(torch.tensor([text])).logits[0, -1]
                logits[forbidden] = -torch.inf
                text.append(int(logits.argmax()))
        assert list(result.tokens) == text[len(prompt) :]


async def test_a_directory_is_a_backend(tmp_path):
    write(tmp_path, "deepseek_v3")
    backend = open_backend(f"local:{tmp_path}?threads=1")
    request = Request(prompt=Prompt.from_text("HI"), params=SamplingParams(max_tokens=5, seed=1), num_samples=3)
    completions = await backend.generate(request)
    assert completions == await backend.generate(request)
    (score,) = await backend.score(Prompt.from_text("HI"), ["AB"])
    assert not score.is_bound
    assert backend.capabilities.context_length == 128
    await backend.aclose()
    rounded = open_backend(f"local:{tmp_path}?threads=1&dtype=bfloat16")
    assert len(await rounded.generate(request)) == 3
    await rounded.aclose()
    with pytest.raises(OptionError, match="use decoder=autoregressive"):
        open_backend(f"local:{tmp_path}?decoder=masked_diffusion")


def write_diffusion_gemma(directory):
    text = SIZES | {
        "head_dim": 16,
        "global_head_dim": 24,
        "num_global_key_value_heads": 1,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    sight = {"model_type": "gemma4_vision", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16}
    torch.manual_seed(3)
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=sight, canvas_length=8)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    write_tokenizer(directory)
    model.save_pretrained(directory)
    return model


def test_diffusion_gemma_denoises_as_the_library_does(tmp_path):
    reference = write_diffusion_gemma(tmp_path)
    found = loaded(tmp_path)
    model = found.model
    generator = torch.Generator().manual_seed(1)
    prompt, canvas, later = (torch.randint(3, 64, (2, n), generator=generator) for n in (11, 8, 8))
    said = torch.randn(2, 8, 64, generator=generator)
    shown = said.softmax(-1) @ model.embedding.weight

    def fed(tokens, start, cache, store, added=None):
        length = tokens.shape[1]
        positions = torch.arange(start, start + length).unsqueeze(0)
        mask = torch.ones(2, length, start + length, dtype=torch.bool)  # what is stored reads from left to right anyway
        return model(tokens, positions, mask, cache, store, slice(store, None), added)

    with torch.inference_mode():
        cache = model.make_cache(2)
        first = fed(torch.cat([prompt, canvas], 1), 0, cache, 11)
        expected = reference(input_ids=prompt, decoder_input_ids=canvas)
        torch.testing.assert_close(first, expected.logits, rtol=1e-4, atol=1e-4)
        again = fed(canvas, 11, cache, 0, shown)
        known = {"input_ids": prompt, "decoder_input_ids": canvas, "self_conditioning_logits": said}
        torch.testing.assert_close(again, reference(**known).logits, rtol=1e-4, atol=1e-4)
        assert (again - first).abs().max() > 0.01
        # The canvas is written: the encoder reads it, and a second one sees both.
        second = fed(torch.cat([canvas, later], 1), 11, cache, 8)
        whole = reference(input_ids=torch.cat([prompt, canvas], 1), decoder_input_ids=later)
        torch.testing.assert_close(second, whole.logits, rtol=1e-4, atol=1e-4)


def test_diffusion_gemma_writes_the_same_with_and_without_a_cache(tmp_path):
    write_diffusion_gemma(tmp_path)
    found = loaded(tmp_path)
    vocabulary = found.language.vocabulary
    assert (found.decoders, vocabulary.mask_id) == (("uniform_diffusion",), 0)
    rows = [
        Row(prompt=p, canvas=(0,) * 13, key=i, block_length=5, params=SamplingParams(temperature=1.0), may_end=False)
        for i, p in enumerate([(5, 6, 7, 40, 8, 9, 11, 12, 3), (9,), (11, 3, 8, 20)])
    ]
    options = UniformOptions(steps=2)
    written = [
        write_all(UniformDiffusionDecoder(found.model, vocabulary, options, use_cache=use), rows)
        for use in (True, False)
    ]
    assert written[0] == written[1]
    assert written[0][2] == write_all(UniformDiffusionDecoder(found.model, vocabulary, options), rows[2:])[0]
    assert all(0 not in result.tokens and len(result.tokens) == 13 for result in written[0])


async def test_a_diffusion_gemma_directory_is_a_backend(tmp_path):
    write_diffusion_gemma(tmp_path)
    backend = open_backend(f"local:{tmp_path}?threads=1&steps=3")
    request = Request(prompt=Prompt.from_text("HI"), params=SamplingParams(max_tokens=12, seed=1), num_samples=2)
    completions = await backend.generate(request)
    assert completions == await backend.generate(request)
    await backend.aclose()


def test_a_window_counts_the_keys_that_are_seen():
    mask = torch.tensor([[[False, True, True, True, False], [False, True, False, True, True]]])
    assert within(mask, 2).tolist() == [[[False, False, True, True, False], [False, False, False, True, True]]]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "klingon"}, "model_type is 'klingon', which transformers cannot run"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": 4}, "its files hold .* numbers, and its config.json asks for"),
        ({"num_hidden_layers": 2}, "tensor 'model.layers.2.* is unknown"),
        ({"intermediate_size": 24, "moe_intermediate_size": 24}, "transformers cannot load it|another shape"),
        ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}, "which transformers cannot run"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, complaint):
    write(tmp_path, "deepseek_v3")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=complaint):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "takes no position_ids"),
        ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "takes no position_ids"),
    ],
)
def test_networks_that_cannot_be_told_positions_are_refused(tmp_path, name, options, complaint):
    write(tmp_path, "gpt2")
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(vocab_size=64, **options))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=complaint):
        loaded(tmp_path)


def test_a_network_that_computes_something_else_in_parts_is_refused():
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**SIZES, head_dim=16)).eval()
    attend = model.model.layers[0].self_attn

    def forward(self, hidden_states, **kwargs):  # looks at how much is fed, as networks with an indexer do
        return type(self).forward(self, hidden_states * hidden_states.shape[1], **kwargs)

    attend.forward = forward.__get__(attend)
    HostedModel(transformers.AutoModelForCausalLM.from_config(model.config).eval(), sizes(model))
    with pytest.raises(FaultyFileError, match="gives other results when it is fed in parts"):
        HostedModel(model, sizes(model))


@pytest.mark.parametrize(
    ("family", "reason"),
    [("deepseek_v3", "model_type 'deepseek_v3' is none of llama, "), ("mistral", "through a sliding window")],
)
def test_without_transformers_the_command_that_installs_it_is_named(tmp_path, family, reason):
    write(tmp_path, family)
    program = f"""
import sys
sys.modules["transformers"] = None
from llmprog.backends import open_backend
from llmprog.errors import MissingExtraError
try:
    open_backend("local:{tmp_path}")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert reason in done.stdout
    assert done.stdout.endswith('is not installed; run: pip install "llmprog[hf]"\n')


def test_weights_that_are_pickled_are_never_read(tmp_path):
    model = write(tmp_path, "gemma3")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"neither model.safetensors nor .*; other formats"):
        loaded(tmp_path)
