"""The tables of a run, the same in every store, and how a file of an older version becomes one of today."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

APPLICATION_ID = 0x4C4C4D50  # "LLMP": says of an SQLite file whose it is
VERSION = 1


class Connection(Protocol):
    """A connection of ``sqlite3`` or of psycopg, in so far as they are alike; each statement is its own transaction."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """A cursor over what ``sql`` gives."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Migration = Callable[[Connection], None]

# From each version to the next; a version that is not here cannot be brought up to date.
MIGRATIONS: Mapping[int, Migration] = {}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database spells what the tables need."""

    integer: str
    real: str
    bytes: str
    run_number: str

    @property
    def has_many_runs(self) -> bool:
        """Whether the tables hold the runs of a whole store, so that keys begin with the run's number."""
        return self.run_number != "INTEGER PRIMARY KEY"


SQLITE = Dialect("INTEGER", "REAL", "BLOB", "INTEGER PRIMARY KEY")
POSTGRESQL = Dialect("BIGINT", "DOUBLE PRECISION", "BYTEA", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")


def create_statements(dialect: Dialect) -> list[str]:
    """What makes the tables in an empty database.

    Texts that come from outside are bytes: they may hold NUL and lone surrogates, which no text column takes.
    """
    i, real, data = dialect.integer, dialect.real, dialect.bytes

    def table(name: str, key: str, columns: str) -> str:
        if dialect.has_many_runs:
            return f"CREATE TABLE {name} (run {i} NOT NULL, {key} {i} NOT NULL, {columns}, PRIMARY KEY (run, {key}))"
        return f"CREATE TABLE {name} (run {i} NOT NULL, {key} {i} PRIMARY KEY, {columns})"

    def index(name: str, of: str, column: str) -> str:
        return f"CREATE INDEX {name} ON {of} ({'run, ' if dialect.has_many_runs else ''}{column})"

    usage = f"calls {i}, prompt_tokens {i}, completion_tokens {i}, usd {real}"
    bound = f"bound_calls {i}, bound_prompt_tokens {i}, bound_completion_tokens {i}, bound_usd {real}"
    return [
        (
            f"CREATE TABLE run (number {dialect.run_number}, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, "
            "status TEXT NOT NULL, program TEXT NOT NULL, program_hash TEXT NOT NULL, program_text TEXT NOT NULL, "
            f"job TEXT, input {data} NOT NULL, config {data} NOT NULL, versions {data} NOT NULL, owner {data}, "
            f"forked_from TEXT, created_at {real} NOT NULL, updated_at {real} NOT NULL, elapsed_s {real} NOT NULL, "
            f"sessions {i} NOT NULL, result {data})"
        ),
        # What was asked, once however often it is asked: by its digest, of prompt and parameters.
        table("question", "id", f"digest {data} NOT NULL, content {data} NOT NULL"),
        # A call that was about to be sent, and the most it could cost. What became of it is its outcome; no row is
        # ever changed. num_samples is 0 for likelihoods.
        table(
            "call",
            "id",
            f"path TEXT NOT NULL, node TEXT NOT NULL, backend TEXT NOT NULL, question {i} NOT NULL, "
            f"first_sample {i} NOT NULL, num_samples {i} NOT NULL, session {i} NOT NULL, "
            f"sent_at {real} NOT NULL, {bound}",
        ),
        index("call_path", "call", "path"),
        # What is charged for it is here. source: model, cache, or the run that this one was forked from.
        table(
            "outcome",
            "call",
            f"state TEXT NOT NULL, source TEXT NOT NULL, {usage}, cached_tokens {i}, reasoning_tokens {i}, "
            f"cache_hits {i}, duration_s {real}, answers {data}, error TEXT",
        ),
        # A failed attempt that another followed within the same call; if it may be billed, at the call's bound.
        table(
            "attempt",
            "id",
            f"call {i} NOT NULL, error TEXT NOT NULL, status TEXT, is_billed {i} NOT NULL, "
            f"duration_s {real}, at {real}",
        ),
        index("attempt_call", "attempt", "call"),
        table("event", "seq", f"path TEXT NOT NULL, kind TEXT NOT NULL, data {data} NOT NULL, at {real} NOT NULL"),
        index("event_path", "event", "path"),
        # A finished row of a map job.
        table("map_row", "number", f"digest TEXT NOT NULL, result {data} NOT NULL, at {real} NOT NULL"),
    ]


@dataclass(frozen=True)
class Insert:
    """Into which columns of which table rows are inserted."""

    table: str
    columns: tuple[str, ...]


@functools.cache
def insert_sql(insert: Insert, num_rows: int) -> str:
    """The statement that inserts so many rows."""
    row = f"({', '.join('?' * len(insert.columns))})"
    return f"INSERT INTO {insert.table} ({', '.join(insert.columns)}) VALUES {', '.join([row] * num_rows)}"  # noqa: S608 - constants


QUESTION = Insert("question", ("run", "id", "digest", "content"))
CALL = Insert(
    "call",
    (
        "run",
        "id",
        "path",
        "node",
        "backend",
        "question",
        "first_sample",
        "num_samples",
        "session",
        "sent_at",
        "bound_calls",
        "bound_prompt_tokens",
        "bound_completion_tokens",
        "bound_usd",
    ),
)
USAGE_COLUMNS = (
    "calls",
    "prompt_tokens",
    "completion_tokens",
    "usd",
    "cached_tokens",
    "reasoning_tokens",
    "cache_hits",
)
OUTCOME = Insert("outcome", ("run", "call", "state", "source", *USAGE_COLUMNS, "duration_s", "answers", "error"))
ATTEMPT = Insert(
    "attempt",
    ("run", "id", "call", "error", "status", "is_billed", "duration_s", "at"),
)
EVENT = Insert("event", ("run", "seq", "path", "kind", "data", "at"))
MAP_ROW = Insert("map_row", ("run", "number", "digest", "result", "at"))
RUN = Insert(
    "run",
    (
        "id",
        "kind",
        "status",
        "program",
        "program_hash",
        "program_text",
        "job",
        "input",
        "config",
        "versions",
        "owner",
        "forked_from",
        "created_at",
        "updated_at",
        "elapsed_s",
        "sessions",
    ),
)
TABLES = ("question", "call", "outcome", "attempt", "event", "map_row")
