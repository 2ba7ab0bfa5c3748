"""Weight files: what is written comes back; what is wrong is refused by name before anything is allocated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.networks.weights import check_weights, load_weights, save_weights
from llmprog.errors import ModelFileError

CONFIG = TransformerConfig(vocab_size=31, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "model.safetensors"
    save_weights(Transformer(CONFIG), path, metadata={"steps": "12"})
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply ``change`` to the header of a safetensors file and leave its data as it is."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_weights(path, backend="local:puzzles")
    assert caught.value.backend == "local:puzzles"
    return str(caught.value)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_what_is_saved_comes_back(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(2)
    model = Transformer(CONFIG).eval()
    path = tmp_path / "model.safetensors"
    save_weights(model, path, dtype=dtype)
    loaded = load_weights(path, backend="local:puzzles")
    assert loaded.config == CONFIG
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    tokens, positions = torch.arange(9)[None], torch.arange(9)[None]
    mask = attention_masks.causal(9)
    with torch.no_grad():
        expected, got = model(tokens, positions, mask), loaded(tokens, positions, mask)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert list(tmp_path.iterdir()) == [path]


def test_weights_are_converted_to_the_type_asked_for(stored: Path) -> None:
    assert load_weights(stored, backend="x", dtype=torch.bfloat16).embedding.weight.dtype == torch.bfloat16


def test_configuration_is_read_without_the_tensors(stored: Path) -> None:
    assert check_weights(stored, backend="x") == CONFIG


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be opened: No such file" in refusal(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("size", [0, 5, 8, 40, -1])
def test_truncated_file(stored: Path, size: int) -> None:
    stored.write_bytes(stored.read_bytes()[:size])
    assert "truncated" in refusal(stored)


def test_bytes_behind_the_last_tensor(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes() + b"abc")
    assert "3 bytes follow the last tensor" in refusal(stored)


def test_header_of_impossible_length_is_not_read(stored: Path) -> None:
    stored.write_bytes(struct.pack("<Q", 2**60) + stored.read_bytes()[8:])
    assert "truncated or not safetensors" in refusal(stored)


@pytest.mark.parametrize("header", [b"not json at all", b"[1, 2, 3]", b'{"a": "\xff"}', b"[" * 100_000])
def test_header_that_is_not_a_json_object(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "not JSON" in refusal(path) or "not a JSON object" in refusal(path)


def test_file_without_a_configuration(stored: Path) -> None:
    rewrite(stored, lambda header: header.pop("__metadata__"))
    assert "no configuration" in refusal(stored)


@pytest.mark.parametrize(
    "change",
    [{"d_model": 0}, {"d_model": "32"}, {"num_layers": 10**12}, {"num_heads": 3}, {"rope_theta": None}, {"depth": 3}],
)
def test_invalid_configuration(stored: Path, change: dict[str, Any]) -> None:
    def alter(header: dict[str, Any]) -> None:
        values = json.loads(header["__metadata__"]["llmprog.transformer"])
        header["__metadata__"]["llmprog.transformer"] = json.dumps({**values, **change})

    rewrite(stored, alter)
    assert "configuration" in refusal(stored)


NAME = "layers.1.attention.k_proj.weight"


def test_each_faulty_tensor_is_named(stored: Path) -> None:
    original = stored.read_bytes()
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "is missing": lambda header: header.pop(NAME),
        "tensor 'layers.9.extra' is unknown": lambda header: header.update({"layers.9.extra": header[NAME]}),
        f"{NAME}' has shape [8, 64], expected [16, 32]": lambda header: header[NAME].update(shape=[8, 64]),
        f"{NAME}' has type 'I64'": lambda header: header[NAME].update(dtype="I64"),
        f"{NAME}' has offsets": lambda header: header[NAME].update(data_offsets=[0, 10]),
        f"{NAME}' has offsets [4, None]": lambda header: header[NAME].update(data_offsets=[4, None]),
        "a gap": lambda header: header[NAME].update(data_offsets=[10**9, 10**9 + 1024]),
        "overlap": lambda header: header[NAME].update(data_offsets=header[NAME.replace("k_", "v_")]["data_offsets"]),
    }
    for expected, change in changes.items():
        stored.write_bytes(original)
        rewrite(stored, change)
        assert expected in refusal(stored)
    stored.write_bytes(original)
    load_weights(stored, backend="x")


def test_a_configuration_larger_than_the_file_allocates_nothing(stored: Path) -> None:
    """A header that claims a terabyte of weights is refused by shape, on the meta device."""

    def alter(header: dict[str, Any]) -> None:
        values = json.loads(header["__metadata__"]["llmprog.transformer"])
        values.update(d_ff=2**24, vocab_size=2**24)
        header["__metadata__"]["llmprog.transformer"] = json.dumps(values)

    rewrite(stored, alter)
    assert "embedding.weight' has shape [31, 32], expected [16777216, 32]" in refusal(stored)
