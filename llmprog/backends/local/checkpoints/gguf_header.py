"""The header of a GGUF file: metadata and where its tensors lie, every length checked against the file.

GGUF v2 and v3 (the format of ggml's ``docs/gguf.md``): a magic, a version, counts, key-value pairs, tensor infos, then
the tensors' data from the next multiple of ``general.alignment`` on. All numbers are little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from llmprog.backends.local.faults import FaultyFileError

MOST_TENSORS = 65_536
_MOST_PAIRS = 65_536
_MOST_ITEMS = 2**24  # of an array in the metadata; the largest vocabularies have some hundred thousand
_MOST_DIMENSIONS = 4
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        shape: As torch has it, the last dimension being contiguous; GGUF writes it in reverse.
        kind: Its type, a number of ggml's.
        start: Its first byte, counted from the beginning of the file.
        size: Its bytes.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Its key-value pairs.
        tensors: Its tensors by name.
    """

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF file at ``path``.

    Raises:
        FaultyFileError: It cannot be read, is no GGUF file, or names tensors that do not lie in it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(file, size).header()
    except OSError as error:
        raise FaultyFileError(f"cannot be read: {error.strerror or error}") from error


class _Reader:
    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def header(self) -> GgufHeader:
        if self._bytes(4, "magic") != b"GGUF":
            raise FaultyFileError("it does not begin with 'GGUF'")
        version = self._number("I")
        if version not in (2, 3):
            raise FaultyFileError(f"GGUF version {version}; versions 2 and 3 can be read")
        num_tensors = self._count("tensors", MOST_TENSORS)
        num_pairs = self._count("metadata pairs", _MOST_PAIRS)
        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self._text("a metadata key")
            if key in metadata:
                raise FaultyFileError(f"metadata {key!r} stands in it twice")
            metadata[key] = self._value(self._number("I"), key)
        found = [self._tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8 or alignment > 2**20:
            raise FaultyFileError(f"general.alignment={alignment!r}; allowed are multiples of 8")
        data_start = -(-self._file.tell() // alignment) * alignment
        return GgufHeader(metadata=metadata, tensors=self._placed(found, data_start, alignment))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text("a tensor's name")
        num_dimensions = self._number("I")
        if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
            raise FaultyFileError(f"tensor {name!r} has {num_dimensions} dimensions")
        sizes = tuple(self._number("Q") for _ in range(num_dimensions))
        kind, offset = self._number("I"), self._number("Q")
        return name, sizes[::-1], kind, offset

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], data_start: int, alignment: int
    ) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in found:
            if name in tensors:
                raise FaultyFileError(f"tensor {name!r} stands in it twice")
            if offset % alignment:
                raise FaultyFileError(f"tensor {name!r} begins at byte {offset}, which is not aligned")
            size = num_bytes(name, shape, kind)
            if data_start + offset + size > self._size:
                end = data_start + offset + size
                raise FaultyFileError(f"tensor {name!r} ends at byte {end} of {self._size}: the file is truncated")
            tensors[name] = TensorInfo(shape=shape, kind=kind, start=data_start + offset, size=size)
        ends = sorted((info.start, info.start + info.size, name) for name, info in tensors.items())
        for (_, end, name), (start, _, other) in pairwise(ends):
            if start < end:
                raise FaultyFileError(f"tensors {name!r} and {other!r} overlap")
        return tensors

    def _value(self, kind: int, key: str) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text(f"metadata {key!r}")
        if kind != _ARRAY:
            raise FaultyFileError(f"metadata {key!r} is of an unknown type {kind}")
        item, count = self._number("I"), self._count(f"items of {key!r}", _MOST_ITEMS)
        if item in _NUMBERS:
            form = f"<{count}{_NUMBERS[item]}"
            return list(struct.unpack(form, self._bytes(struct.calcsize(form), key)))
        if item == _STRING:
            return [self._text(f"an item of {key!r}") for _ in range(count)]
        raise FaultyFileError(f"metadata {key!r} is an array of an unknown type {item}")

    def _number(self, form: str) -> Any:
        form = f"<{form}"
        return struct.unpack(form, self._bytes(struct.calcsize(form), "a number"))[0]

    def _count(self, what: str, most: int) -> int:
        count: int = self._number("Q")
        if count > most:
            raise FaultyFileError(f"{count} {what}; at most {most} are possible")
        return count

    def _text(self, what: str) -> str:
        data = self._bytes(self._number("Q"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise FaultyFileError(f"{what} is not UTF-8") from error

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._size - self._file.tell():
            raise FaultyFileError(f"{what} of {count} bytes goes beyond the end: the file is truncated")
        return self._file.read(count)


def num_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    """Bytes of a tensor.

    Raises:
        FaultyFileError: Its type is unknown, or its rows are no whole number of blocks.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise FaultyFileError(f"tensor {name!r} is of an unknown type {kind}") from error
    count = math.prod(shape)
    if not count or shape[-1] % block:
        raise FaultyFileError(f"tensor {name!r} of shape {list(shape)} is no whole number of blocks of {block}")
    return count // block * block_bytes
