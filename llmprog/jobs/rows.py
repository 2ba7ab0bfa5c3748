"""The rows of a job: read one after the other from a JSON-lines or CSV file, or from any Python iterable.

A row that cannot be read is a row with a fault, told by its line number; it never ends the job. Memory is bounded by
the longest row, and that by ``MAX_ROW_BYTES``.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from llmprog.errors import InputError

MAX_ROW_BYTES = 10_000_000
_BOM = b"\xef\xbb\xbf"
_FORMATS = (".jsonl", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a job's data.

    Attributes:
        index: Its place among the rows, from 0; blank lines are no rows.
        line: The line of the file on which it begins, from 1; ``None`` for a row that came from Python.
        values: Its columns; empty where it could not be read.
        fault: Why it could not be read.
    """

    index: int
    line: int | None
    values: Mapping[str, Any]
    fault: str | None = None


class _UnreadableError(Exception):
    """A line, or a record of several, that is no row."""


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a ``.jsonl`` or ``.csv`` file, plain or compressed (``.gz``), read as they are asked for.

    JSON lines hold one object each. CSV has a header, commas, and quotes as in RFC 4180; its values are texts.

    Raises:
        InputError: The file cannot be read, has another format, or a CSV file's header is no list of column names.
    """
    path = Path(path)
    _format_of(path)
    with _open(path) as file:
        try:
            yield from (_json_rows if _format_of(path) == ".jsonl" else _csv_rows)(file, path)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"the data file {str(path)!r} cannot be read to its end: {error}") from error


def count_rows(path: str | Path) -> int:
    """How many rows a data file has, as far as that can be told without parsing them; for showing progress."""
    path = Path(path)
    is_csv = _format_of(path) == ".csv"
    count, num_quotes = 0, 0
    with _open(path) as file:
        for line in _Lines(file, whole_only=False):
            if is_csv:
                num_quotes += line.count(b'"')
            count += num_quotes % 2 == 0 and not line.isspace()  # a line that ends within quotes goes on
    return max(0, count - is_csv)


def _format_of(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"the data file {str(path)!r} is of no known format; allowed are .jsonl and .csv, either also with .gz"
        )
    return suffix


def _open(path: Path) -> IO[bytes]:
    try:
        file: Any = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 - by callers
    except OSError as error:
        raise InputError(f"the data file {str(path)!r} cannot be opened: {error.strerror or error}") from error
    return file  # type: ignore[no-any-return]  # GzipFile and BufferedReader share what is used of them


class _Lines:
    """The lines of a file, with their ends; ``_UnreadableError`` for one that is too long, after which it goes on.

    Args:
        file: Where to read; a byte-order mark of UTF-8 at its start is dropped.
        whole_only: Whether a line that is too long is refused; without it, it comes in pieces.
    """

    def __init__(self, file: IO[bytes], *, whole_only: bool = True) -> None:
        self.number = 0  # of the line that was read last
        self._file = file
        self._whole_only = whole_only

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes:
        line = self._file.readline(MAX_ROW_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(_BOM)
        if self._whole_only and len(line) >= MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := self._file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            raise _UnreadableError(f"longer than {MAX_ROW_BYTES:,} bytes")
        return line


# ---------------------------------------------------------------------------------------------------- JSON lines


def _json_rows(file: IO[bytes], path: Path) -> Iterator[Row]:
    lines = _Lines(file)
    index = 0
    while True:
        try:
            line = next(lines)
            if line.isspace() or not line:
                continue
            values = _parse_object(line)
        except StopIteration:
            return
        except _UnreadableError as error:
            yield _faulty(index, lines.number, path, str(error))
        else:
            yield Row(index=index, line=lines.number, values=values)
        index += 1


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object_of)
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise _UnreadableError(f"not JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of very many digits; very deep nesting
        raise _UnreadableError(f"not JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise _UnreadableError(f'a JSON {type(value).__name__}; each line must be an object such as {{"input": …}}')
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _UnreadableError(f"not JSON: {name} is no number of JSON")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _UnreadableError(f"the key {next(n for n in made if names.count(n) > 1)!r} is there twice")
    return made


# ---------------------------------------------------------------------------------------------------- CSV


def _csv_rows(file: IO[bytes], path: Path) -> Iterator[Row]:
    lines = _Lines(file)
    # The limit is the process's, not the reader's: raised where it is lower, and left so.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    # Bytes that are no UTF-8 become lone surrogates, by which a row that has some is known.
    records = csv.reader(_Decoded(lines), strict=True)
    header = _csv_header(records, path)
    index = 0
    while True:
        begin = lines.number + 1
        try:
            record = next(records)
            if not record:
                continue
            _check_record(record, header)
        except StopIteration:
            return
        except (csv.Error, _UnreadableError) as error:
            yield _faulty(index, begin, path, str(error))
        else:
            yield Row(index=index, line=begin, values=dict(zip(header, record, strict=True)))
        index += 1


class _Decoded:
    """Lines as text, for ``csv``; an iterator that goes on after an error, as a generator would not."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    def __iter__(self) -> _Decoded:
        return self

    def __next__(self) -> str:
        return next(self._lines).decode("utf-8", "surrogateescape")


def _csv_header(records: Any, path: Path) -> list[str]:
    what = f"the data file {str(path)!r} does not begin with a line of column names"
    try:
        header: list[str] = next(records)
    except StopIteration:
        raise InputError(f"{what}: it is empty") from None
    except (csv.Error, _UnreadableError) as error:
        raise InputError(f"{what}: {error}") from error
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated or not all(name.strip() for name in header):
        raise InputError(f"{what}: " + (f"{repeated[0]!r} is there twice" if repeated else "one has no name"))
    return header


def _check_record(record: list[str], header: list[str]) -> None:
    if len(record) != len(header):
        raise _UnreadableError(f"{len(record)} fields, but the header has {len(header)}")
    if any("\udc80" <= character <= "\udcff" for text in record if not text.isascii() for character in text):
        raise _UnreadableError("not UTF-8")


def _faulty(index: int, line: int, path: Path, reason: str) -> Row:
    return Row(index=index, line=line, values={}, fault=f"{path.name}, line {line}: {reason}")


# ---------------------------------------------------------------------------------------------------- Python


async def rows_of(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Row]:
    """Rows from what a Python caller gives: ``Row``s as they are, mappings, or texts (as the column ``input``)."""
    if isinstance(source, AsyncIterable):
        index = 0
        async for item in source:
            yield _row_of(index, item)
            index += 1
    else:
        for index, item in enumerate(source):
            yield _row_of(index, item)


def _row_of(index: int, item: Any) -> Row:
    if isinstance(item, Row):
        return item
    if isinstance(item, str):
        return Row(index=index, line=None, values={"input": item})
    if isinstance(item, Mapping) and all(isinstance(name, str) for name in item):
        return Row(index=index, line=None, values=dict(item))
    return Row(
        index=index, line=None, values={}, fault=f"row {index}: {item!r:.200} is no mapping by column name, and no text"
    )
