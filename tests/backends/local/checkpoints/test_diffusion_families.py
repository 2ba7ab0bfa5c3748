"""LLaDA, Dream, MDLM and Eso-LM: tiny random checkpoints against networks and decoding that are written out slowly."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llmprog import Prompt
from llmprog.backends import open_backend
from llmprog.backends.local.checkpoints import dit_family
from llmprog.backends.local.checkpoints.families import FAMILIES
from llmprog.backends.local.checkpoints.loading import load_text_model
from llmprog.backends.local.decoders.base import Row, write_all
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder, UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.options import LocalOptions
from llmprog.errors import ModelFileError, OptionError
from llmprog.types import Blank, Request, SamplingParams, Template

_spec = importlib.util.spec_from_file_location("written_out", Path(__file__).parents[4] / "benchmarks/written_out.py")
written_out = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(written_out)

MASK, END = 60, 2
LLADA = {
    "model_type": "llada",
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "mlp_hidden_size": 48,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 96,
    "vocab_size": 64,
    "embedding_size": 64,
    "weight_tying": False,
    "mask_token_id": MASK,
    "eos_token_id": END,
    "block_type": "llama",
    "layer_norm_type": "rms",
    "include_bias": False,
}
MDLM = {
    "model_type": "mdlm",
    "hidden_dim": 32,
    "cond_dim": 16,
    "n_blocks": 2,
    "n_heads": 4,
    "model_length": 64,
    "vocab_size": 33,
    "time_conditioning": False,
}
WORDS = ["<|startoftext|>", "<pad>", "<|endoftext|>", *map(chr, range(ord("!"), ord("!") + 55))]


def write_directory(directory, config, shapes, *, words=WORDS):
    """Random tensors, a tokenizer of letters, ids above it that no text has."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 + (1.0 if "norm" in name else 0.0)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    tokenizer.save(str(directory / "tokenizer.json"))
    return {name: tensor.double() for name, tensor in tensors.items()}


def write_llada(directory, **change):
    config = LLADA | change
    return write_directory(directory, config, FAMILIES["llada"](config).shapes)


def loaded(directory, dtype=torch.float64):
    return load_text_model(directory, backend="local:x", device="cpu", dtype=dtype)


def full_logits(model, tokens, mask=None):
    tokens = torch.tensor([tokens])
    mask = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool) if mask is None else mask
    with torch.inference_mode():
        return model(tokens, torch.arange(tokens.shape[1]).unsqueeze(0), mask)[0]


def test_lladas_network_is_that_of_the_paper(tmp_path):
    tensors = write_llada(tmp_path)
    found = loaded(tmp_path)
    tokens = [0, 9, 33, MASK, 5, MASK, MASK, 2, 14]
    expected = written_out.llada_logits(tensors, LLADA, tokens)
    torch.testing.assert_close(full_logits(found.model, tokens), expected, rtol=1e-5, atol=1e-5)
    assert (found.decoders, found.shift_logits) == (("masked_diffusion", "mdlm", "score_entropy"), False)


@pytest.mark.parametrize(
    ("steps", "block_length", "guidance"), [(None, 4, 0.0), (2, 6, 0.0), (3, 4, 0.0), (1, 12, 0.0), (2, 4, 0.7)]
)
def test_llada_decodes_by_the_rules_of_the_paper(tmp_path, steps, block_length, guidance):
    tensors = write_llada(tmp_path)
    found = loaded(tmp_path)
    vocabulary = found.language.vocabulary
    options = UnmaskOptions(unmask="quota", steps=steps, guidance_scale=guidance)
    decoder = MaskedDiffusionDecoder(found.model, vocabulary, options)
    prompts = [(5, 6, 7, 40), (9,), (11, 3, 8, 20, 21, 50, 12)]
    rows = [
        Row(
            prompt=prompt,
            canvas=(MASK,) * 12,
            key=1,
            block_length=block_length,
            params=SamplingParams(temperature=0.0),
            may_end=False,
        )
        for prompt in prompts
    ]
    forbidden = (*vocabulary.never_sampled, *vocabulary.end_ids)
    assert set(forbidden) == {END, *range(58, 64)}
    for prompt, result in zip(prompts, write_all(decoder, rows), strict=True):
        expected = written_out.llada_canvas(
            lambda tokens: written_out.llada_logits(tensors, LLADA, tokens),
            prompt,
            length=12,
            block_length=block_length,
            steps=steps or block_length,
            mask_id=MASK,
            forbidden=forbidden,
            guidance=guidance,
        )
        assert list(result.tokens) == expected


async def test_a_llada_directory_is_a_backend_that_fills_blanks(tmp_path):
    write_llada(tmp_path)
    backend = open_backend(f"local:{tmp_path}?threads=1&unmask=quota&steps=2&block_length=4")
    assert backend.capabilities.infill
    request = Request(prompt=Prompt.from_text("HI"), params=SamplingParams(max_tokens=8, seed=1), num_samples=2)
    completions = await backend.generate(request)
    assert completions == await backend.generate(request)
    assert all(len(completion.text) <= 8 for completion in completions)
    template = Template(Prompt.from_text("HI"), (Blank(2), "AB", Blank(1)))
    (filled,) = await backend.infill(template, SamplingParams(temperature=0.0))
    assert len(filled.text) == 5
    assert filled.text[2:4] == "AB"
    (score,) = await backend.score(Prompt.from_text("HI"), ["AB"])
    assert score.is_bound
    await backend.aclose()
    with pytest.raises(OptionError, match="use decoder=masked_diffusion or decoder=mdlm or decoder=score_entropy"):
        open_backend(f"local:{tmp_path}?decoder=autoregressive")


def test_a_conversation_is_llada_s_and_no_user_writes_a_mask(tmp_path):
    write_llada(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|eot_id|>", special=True)])
    tokenizer.add_tokens([AddedToken("<|x|>"), AddedToken("<|mdm_mask|>", normalized=False)])
    assert tokenizer.token_to_id("<|mdm_mask|>") == MASK
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}{{ message['role'][0] | upper }}:"
        "{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    about = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    language = loaded(tmp_path).language
    text = language.encode(Prompt.from_text(" HI "), LocalOptions()).tokens
    assert text == (0, *language.encode_text("U:HI"), 58, *language.encode_text("A:"))
    assert language.vocabulary.end_ids == (END, 58)
    assert language.vocabulary.mask_id == MASK
    forged = language.encode(Prompt.from_text("<|mdm_mask|><|eot_id|>"), LocalOptions()).tokens
    assert (forged.count(MASK), forged.count(58)) == (0, 1)
    assert MASK not in language.encode_text("<|mdm_mask|>")


def write_dream(directory):
    import transformers

    torch.manual_seed(2)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "tie_word_embeddings": False,
        "eos_token_id": END,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    config = transformers.Qwen2Config(**sizes, attn_implementation="eager")
    model = transformers.Qwen2ForCausalLM(config).eval().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    written = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(written | {"model_type": "Dream", "mask_token_id": MASK}))
    tensors = load_file(directory / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return model


def write_byte_level_tokenizer(directory):
    """Words and merges instead of a ``tokenizer.json``, as Dream comes."""
    words = ["Ã", "©", "<|endoftext|>", "</s>", *(chr(i) for i in range(ord("!") + 1, ord("!") + 40)), "Ġ", "AB"]
    (directory / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (directory / "merges.txt").write_text("#version: 0.2\nA B\n")
    added = {str(45 + i): {"content": word, "special": True} for i, word in enumerate(["<|im_end|>", "<|im_start|>"])}
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))


def test_dreams_network_is_qwens_without_its_causal_mask(tmp_path):
    model = write_dream(tmp_path)
    write_byte_level_tokenizer(tmp_path)
    found = loaded(tmp_path)
    tokens = [4, 9, MASK, 33, 5, MASK, 14]
    mask = torch.zeros(1, 1, len(tokens), len(tokens), dtype=torch.float64)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), attention_mask=mask).logits[0]
    torch.testing.assert_close(full_logits(found.model, tokens), expected, rtol=1e-4, atol=1e-4)
    assert (found.decoders, found.shift_logits) == (("masked_diffusion", "mdlm", "score_entropy"), True)


def test_dream_reads_the_logits_one_place_before(tmp_path):
    write_dream(tmp_path)
    write_byte_level_tokenizer(tmp_path)
    found = loaded(tmp_path)
    vocabulary = found.language.vocabulary
    decoder = MaskedDiffusionDecoder(
        found.model, vocabulary, UnmaskOptions(unmask="quota", steps=2), shift_logits=found.shift_logits
    )
    prompts = [(5, 6, 7, 40), (9,)]
    rows = [
        Row(prompt=p, canvas=(MASK,) * 8, key=1, block_length=4, params=SamplingParams(temperature=0.0), may_end=False)
        for p in prompts
    ]
    for prompt, result in zip(prompts, write_all(decoder, rows), strict=True):
        assert list(result.tokens) == written_out.llada_canvas(
            lambda tokens: full_logits(found.model, tokens),
            prompt,
            length=8,
            block_length=4,
            steps=2,
            mask_id=MASK,
            forbidden=(*vocabulary.never_sampled, *vocabulary.end_ids),
            is_shifted=True,
        )


def test_a_tokenizer_of_words_and_merges_is_rebuilt(tmp_path):
    write_dream(tmp_path)
    write_byte_level_tokenizer(tmp_path)
    language = loaded(tmp_path).language
    assert language.encode_text("CAB A") == [37, 44, 43, 35]
    assert language.decode([37, 44, 43, 35]) == "CAB A"
    assert (
        language.encode_text("\u00e9") == language.encode_text("e\u0301") == [0, 1]
    )  # one letter, written in two ways
    assert {MASK, 47, 63} <= set(language.vocabulary.never_sampled)
    assert 44 not in language.vocabulary.never_sampled
    assert language.vocabulary.end_ids == (END, 45)  # and not the plain word </s>
    assert 45 not in language.encode_text("<|im_end|>")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: (d / "merges.txt").unlink(), "no tokenizer.json, and instead of it no merges.txt"),
        (lambda d: (d / "merges.txt").write_text("A B C\n"), "broken merges"),
        (lambda d: (d / "merges.txt").write_text("A ö\n"), "merges do not fit"),
        (lambda d: (d / "vocab.json").write_text('{"A": "B"}'), "no object of token ids"),
        (lambda d: (d / "vocab.json").write_text("{"), "cannot be read from vocab.json"),
        (
            lambda d: (d / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"7": {"content": "<x>"}}}'),
            "token '<x>' is said to be 7",
        ),
    ],
)
def test_damaged_words_and_merges_are_refused(tmp_path, damage, complaint):
    write_dream(tmp_path)
    write_byte_level_tokenizer(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelFileError, match=complaint):
        loaded(tmp_path)


def write_dit(directory, **change):
    config = MDLM | change
    shapes = FAMILIES[config["model_type"]](config).shapes
    return write_directory(directory, config, shapes, words=WORDS[:32])


def test_what_is_folded_away_of_the_dit_is_only_the_time(tmp_path):
    tensors = write_dit(tmp_path)
    found = loaded(tmp_path)
    tokens = [2, 9, 31, 32, 5, 32, 32, 14]
    expected = written_out.dit_logits(tensors, MDLM, tokens)
    torch.testing.assert_close(full_logits(found.model, tokens), expected, rtol=1e-5, atol=1e-5)
    # every modulation matters: without it the logits are others
    plain = {name: t * 0 if "adaLN" in name and "output" not in name else t for name, t in tensors.items()}
    assert (written_out.dit_logits(plain, MDLM, tokens) - expected).abs().max() > 0.1
    assert found.decoders == ("mdlm", "masked_diffusion", "score_entropy")
    assert found.language.vocabulary.mask_id == 32


def test_the_dits_cache_is_exact_in_any_order_of_writing(tmp_path):
    tensors = write_dit(tmp_path, model_type="EsoLM")
    found = loaded(tmp_path)
    assert found.decoders == ("hybrid",)
    order = [0, 1, 5, 3, 2, 6, 4]
    tokens, positions = torch.tensor([[2, 9, 31, 32, 5, 32, 14]]), torch.tensor([order])
    with torch.inference_mode():
        whole = found.model(tokens, positions, attention_masks.causal(7))
        cache = found.model.make_cache(1)
        first = found.model(tokens[:, :4], positions[:, :4], attention_masks.causal(4), cache)
        rest = found.model(tokens[:, 4:], positions[:, 4:], attention_masks.causal(3, 4), cache)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    natural = torch.tensor(order).argsort()
    rank = torch.tensor(order).argsort()
    mask = rank.unsqueeze(0) <= rank.unsqueeze(1)
    expected = written_out.dit_logits(tensors, MDLM, tokens[0, natural].tolist(), mask)
    torch.testing.assert_close(whole[0, natural], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mdlm", ""),
        ("mdlm", "&sampler=first_hitting"),
        ("mdlm", "&decoder=masked_diffusion"),
        ("mdlm", "&decoder=score_entropy&steps=4"),
        ("EsoLM", ""),
        ("EsoLM", "&alpha0=0.6"),
        ("EsoLM", "&variant=a"),
    ],
)
async def test_a_dit_directory_is_a_backend(tmp_path, kind, options):
    write_dit(tmp_path, model_type=kind)
    backend = open_backend(f"local:{tmp_path}?threads=1{options}")
    request = Request(prompt=Prompt.from_text("+-"), params=SamplingParams(max_tokens=6, seed=1), num_samples=2)
    completions = await backend.generate(request)
    assert completions[0].usage.prompt_tokens == 3  # the token that ends a text stands before each
    assert all(len(completion.text) <= 6 for completion in completions)
    await backend.aclose()


@pytest.mark.parametrize("write", [write_llada, write_dit])
async def test_they_run_in_bfloat16(tmp_path, write):
    write(tmp_path)
    backend = open_backend(f"local:{tmp_path}?threads=1&dtype=bfloat16")
    request = Request(prompt=Prompt.from_text("+-"), params=SamplingParams(max_tokens=6, seed=1))
    (completion,) = await backend.generate(request)
    assert completion.usage.completion_tokens <= 6
    (score,) = await backend.score(Prompt.from_text("+-"), ["AB"])
    assert score.total < 0
    await backend.aclose()


@pytest.mark.parametrize(
    ("write", "change", "complaint"),
    [
        (write_llada, {"mask_token_id": 64}, "mask_token_id=64; allowed is a token id below 64"),
        (write_llada, {"mask_token_id": "x"}, "mask_token_id='x'"),
        (write_llada, {"n_layers": 3}, "tensor 'model.transformer.blocks.2.* is missing"),
        (write_llada, {"n_layers": 10**9}, "num_layers=1000000000"),
        (write_llada, {"mlp_hidden_size": 64}, "has shape"),
        (write_llada, {"d_model": None}, "has no d_model"),
        (write_llada, {"block_type": "sequential"}, "block_type='sequential' is not known here; allowed is 'llama'"),
        (write_llada, {"attention_layer_norm": True}, "attention_layer_norm=True"),
        (write_llada, {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        (write_dit, {"time_conditioning": True}, "time_conditioning=True"),
        (write_dit, {"cond_dim": 2**40}, "cond_dim=1099511627776"),
        (write_dit, {"cond_dim": 8}, "'backbone.*' has shape"),
        (write_dit, {"hidden_dim": 30}, "not possible"),
        (write_dit, {"hidden_dim": "wide"}, "not possible"),
        (write_dit, {"n_blocks": 1}, "'backbone.blocks.1.* is unknown"),
        (write_dit, {"mask_index": -4}, "mask_index=-4"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, write, change, complaint):
    write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=complaint):
        loaded(tmp_path)


def header_changed(change):
    def apply(directory):
        path = directory / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return apply


def truncated(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_llada, "model.transformer.blocks.1.ff_proj.weight"),
        (write_dit, "backbone.blocks.1.adaLN_modulation.weight"),
    ],
)
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda name: header_changed(lambda h: h.update(odd=h.pop(name))), "tensor 'odd' is unknown"),
        (lambda name: header_changed(lambda h: h[name].update(shape=[2**40, 1])), "NAME"),
        (lambda name: header_changed(lambda h: h[name].update(data_offsets=[0, 2**40])), "NAME"),
        (lambda name: header_changed(lambda h: h[name].update(dtype="I8")), "NAME"),
        (lambda name: truncated, "the file is truncated"),
        (lambda name: lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "other formats"),
    ],
)
def test_damaged_weights_are_refused_by_the_tensors_name(tmp_path, write, name, damage, complaint):
    write(tmp_path)
    damage(name)(tmp_path)
    with pytest.raises(ModelFileError, match=complaint.replace("NAME", f"'{name}' has")):
        loaded(tmp_path)


def test_the_shapes_of_the_published_models_fit():
    """The sizes that LLaDA-8B, Dream-7B and MDLM have; nothing is allocated for them."""
    llada = FAMILIES["llada"](
        LLADA
        | {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288}
        | {"vocab_size": 126464, "embedding_size": 126464, "mask_token_id": 126336, "max_sequence_length": 4096}
    )
    assert llada.shapes["model.transformer.blocks.31.ff_out.weight"] == (4096, 12288)
    assert sum(torch.Size(shape).numel() for shape in llada.shapes.values()) == 8_015_581_184
    mdlm = FAMILIES["mdlm"](
        {"model_type": "mdlm", "hidden_dim": 768, "vocab_size": 50258, "n_blocks": 12, "n_heads": 12}
    )
    assert mdlm.language.mask_id == 50257
    assert mdlm.shapes == dit_family.shapes(
        dit_family.checked_config(
            vocab_size=50258, d_model=768, num_layers=12, num_heads=12, num_kv_heads=12, d_ff=3072, max_positions=1024
        ),
        128,
    )
    assert LocalOptions().for_model(mdlm.decoders, "local:mdlm").decoder == "mdlm"
