"""A job's output file: one JSON line for each row, written whole and at once, and carried on where a session ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmprog.errors import OptionError, StoreError
from llmprog.jobs.result import RowResult
from llmprog.json_values import without_secrets

_LONGEST_LINE = 256_000_000  # longer lines are none of ours
_OUR_START = b'{"index": '


def refuse_used(path: str | Path) -> None:
    """Refuse an output file that holds anything, for a job that is begun anew.

    Raises:
        OptionError: It does.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size:
        raise _used(path, "something already")


def refuse_data(path: str | Path, data: str | Path) -> None:
    """Refuse an output file that is the data file.

    Raises:
        OptionError: It is.
    """
    with suppress(FileNotFoundError):
        if Path(path).samefile(data):
            raise OptionError(f"the output file {str(path)!r} is the data file; give another --out")


def _used(path: Path, what: str) -> OptionError:
    return OptionError(f"the output file {str(path)!r} holds {what}; give another --out, or --overwrite to replace it")


class Output:
    """Appends rows to a file; each row is there once, whatever interrupts the job.

    Every line names the run that wrote it (``run``), so that a file of another job is told from one to be carried on.

    Args:
        path: Where to write; a device or a pipe is only ever written to.
        in_order: Whether lines must be in the rows' order. A file that is carried on is then written anew, from what
            the run's journal holds.
    """

    def __init__(self, path: str | Path, *, in_order: bool = False) -> None:
        self.path = Path(path)
        if self.path.is_file():
            self.path = self.path.resolve()  # written anew where it is, not where a link to it is
        self._run = ""
        self._in_order = in_order
        self._there = bytearray()  # one bit for each row
        self._highest = -1  # index that is there
        self._has_superseded = False
        self._file = -1

    def open(self, run: str, *, is_replaced: Callable[[str], bool] | None = None, overwrite: bool = False) -> None:
        """Take up what is there, and begin to write.

        Lines of rows that failed are dropped, since these are tried again, and so is a last line that is torn.

        Args:
            run: Id of the run that writes.
            is_replaced: Whether this run stands in for another, whose lines are then dropped.
            overwrite: Whether lines of other jobs, and any other text, are dropped instead of refused.

        Raises:
            OptionError: The file holds something else, or cannot be written.
        """

        def is_kept(line: dict[str, Any]) -> bool:
            by = line.get("run")
            if by != run and not overwrite and not (by and is_replaced and is_replaced(by)):
                raise _used(self.path, f"rows of another run, {by}" if by else "something else")
            return by == run and line["error"] is None and not self._in_order

        self._run = run

        try:
            if self.path.is_file():
                self._tidy(is_kept)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise OptionError(f"the output file {str(self.path)!r} cannot be written: {_reason(error)}") from error

    def __contains__(self, index: int) -> bool:
        """Whether the row with this index is there."""
        return index // 8 < len(self._there) and bool(self._there[index // 8] & 1 << index % 8)

    def write(self, result: RowResult) -> None:
        """Add a row's line; a recalled row that is there already is not written again.

        Raises:
            StoreError: It could not be written; the row is not lost, since the run's journal holds it.
        """
        if result.index in self:
            if result.is_recalled:
                return
            self._has_superseded = True  # the row is another than when its line was written
        line = encode_line(result.to_json() | {"run": self._run})
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            raise StoreError(
                f"the output file {str(self.path)!r} cannot be written: {_reason(error)}; once it can be, the same "
                "command writes what is missing at no cost"
            ) from error
        self._mark(result.index)

    def close(self, num_rows: int | None = None) -> None:
        """End writing.

        Args:
            num_rows: How many rows the data has, once all have been read: lines of later rows, and lines that were
                superseded, are dropped. ``None`` where it is not known.

        Raises:
            StoreError: The file is not there any more.
        """
        if self._file < 0:
            return
        was_deleted = os.fstat(self._file).st_nlink == 0
        os.close(self._file)
        self._file = -1
        if was_deleted:
            raise StoreError(
                f"the output file {str(self.path)!r} was deleted while the job ran; the same command writes it anew "
                "at no cost"
            )
        if self._has_superseded or (num_rows is not None and self._highest >= num_rows):
            self._tidy(lambda line: line.get("run") == self._run and (num_rows is None or line["index"] < num_rows))

    # -- what is there

    def _tidy(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Keep one whole line, the last, for each row whose lines are to stay; the file changes only where it must."""
        self._there, self._highest = bytearray(), -1
        last: dict[int, int] = {}  # line of each row that has several
        end, must_rewrite = 0, False
        for number, line, index in self._scan(is_kept):
            end += len(line)
            if index is None:
                must_rewrite = True
            elif index in self:
                last[index] = number
                must_rewrite = True
            else:
                self._mark(index)
        if must_rewrite:
            self._rewrite(
                line
                for number, line, index in self._scan(is_kept)
                if index is not None and last.get(index, number) == number
            )
        elif end < self.path.stat().st_size:
            os.truncate(self.path, end)

    def _scan(self, is_kept: Callable[[dict[str, Any]], bool]) -> Iterator[tuple[int, bytes, int | None]]:
        """Each whole line with its number, and the index of the row it holds; ``None`` if it is not to stay."""
        with self.path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                if not line.endswith(b"\n") and (number or line.startswith(_OUR_START)):
                    return  # torn in the middle of a write
                found = _parse(line)
                yield number, line, found["index"] if is_kept(found) else None
                number += 1

    def _rewrite(self, lines: Iterator[bytes]) -> None:
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with new.open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            new.chmod(self.path.stat().st_mode & 0o7777)
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)

    def _mark(self, index: int) -> None:
        if index // 8 >= len(self._there):
            self._there.extend(bytes(max(1024, index // 8 + 1 - len(self._there))))
        self._there[index // 8] |= 1 << index % 8
        self._highest = max(self._highest, index)


def encode_line(value: dict[str, Any]) -> bytes:
    """A line of JSON as UTF-8, secrets blacked out; text that UTF-8 cannot hold is escaped."""
    clean = without_secrets(value)
    try:
        return (json.dumps(clean, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate
        return (json.dumps(clean, default=str) + "\n").encode()


def _parse(line: bytes) -> dict[str, Any]:
    """The object that a line of ours holds; empty for any other line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    is_ours = isinstance(value, dict) and isinstance(value.get("index"), int) and {"run", "error"} <= value.keys()
    return value if is_ours else {}


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
