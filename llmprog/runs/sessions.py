"""How a session of work on a run begins: a new run, one that is resumed, one that begins with another's calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmprog.errors import StoreError
from llmprog.runs.charges import charged
from llmprog.runs.database import Database, transaction
from llmprog.runs.encoding import json_to_bytes
from llmprog.runs.info import INFO_COLUMNS, RunInfo
from llmprog.runs.journal import RunJournal
from llmprog.runs.owner import OwnerLock, this_process
from llmprog.runs.schema import CALL, OUTCOME, QUESTION, RUN, USAGE_COLUMNS, Connection, Insert, insert_sql

_CHUNK = 1024
_FIRST = {"question": 0, "call": 0, "attempt": 0, "event": 0}
_KEYS = {"question": "id", "call": "id", "attempt": "id", "event": "seq"}

# A call that a killed session sent may have been answered, and paid for: it is charged at its bound.
_MARK_UNKNOWN = (
    "INSERT INTO outcome (run, call, state, source, calls, prompt_tokens, completion_tokens, usd, cached_tokens, "
    "reasoning_tokens, cache_hits) SELECT run, id, 'unknown', 'model', bound_calls, bound_prompt_tokens, "
    "bound_completion_tokens, bound_usd, 0, 0, 0 FROM call WHERE run = ? "
    "AND NOT EXISTS (SELECT 1 FROM outcome WHERE outcome.run = call.run AND outcome.call = call.id)"
)
_SETTLED = (
    "FROM call JOIN outcome ON outcome.run = call.run AND outcome.call = call.id "
    "WHERE call.run = ? AND call.id > ? AND outcome.state = 'settled' ORDER BY call.id LIMIT ?"
)


_QUESTIONS = "FROM question WHERE run = ? AND id > ? ORDER BY id LIMIT ?"


def insert_run(connection: Connection, run_id: str, info: RunInfo, now: float, forked_from: str | None = None) -> None:
    """Enter a new run."""
    row = (
        run_id,
        info.kind,
        "running",
        *info.to_row()[1:],
        json_to_bytes(this_process()),
        forked_from,
        now,
        now,
        0.0,
        1,
    )
    connection.execute(insert_sql(RUN, 1), row)


def begin(
    database: Database,
    connection: Connection,
    lock: OwnerLock,
    run_id: str,
    info: RunInfo,
    clock: Callable[[], float],
) -> RunJournal:
    """The journal of a run that was entered just now."""
    return RunJournal(
        database,
        connection,
        lock,
        run=number_of(connection, run_id),
        id=run_id,
        info=info,
        session=1,
        last=_FIRST,
        clock=clock,
    )


def resume(
    database: Database, connection: Connection, lock: OwnerLock, run_id: str, clock: Callable[[], float]
) -> RunJournal:
    """The journal of a run that an earlier session worked on."""
    number = number_of(connection, run_id)
    sql = f"SELECT sessions, elapsed_s, {INFO_COLUMNS} FROM run WHERE number = ?"  # noqa: S608 - constants only
    sessions, elapsed_s, *info = connection.execute(sql, (number,)).fetchone()
    with transaction(database, connection):
        num_unknown = connection.execute(_MARK_UNKNOWN, (number,)).rowcount
        connection.execute(
            "UPDATE run SET status = 'running', sessions = ?, owner = ?, updated_at = ? WHERE number = ?",
            (sessions + 1, json_to_bytes(this_process()), clock(), number),
        )
    return RunJournal(
        database,
        connection,
        lock,
        run=number,
        id=run_id,
        info=RunInfo.from_row(info),
        session=sessions + 1,
        spent=charged(connection, number),
        num_unknown=num_unknown,
        elapsed_s=elapsed_s,
        last=_last_numbers(connection, number),
        clock=clock,
    )


def fork(
    database: Database,
    connection: Connection,
    lock: OwnerLock,
    run_id: str,
    info: RunInfo,
    clock: Callable[[], float],
    old: Connection,
    old_number: int,
) -> RunJournal:
    """The journal of a run that was entered just now, and begins with the settled calls of an older one.

    They cost the new run nothing; the older one is not changed.
    """
    number = number_of(connection, run_id)
    with transaction(database, connection):
        _copy(database, connection, number, old, old_number)
        connection.execute("UPDATE run SET sessions = 2 WHERE number = ?", (number,))
    return RunJournal(
        database,
        connection,
        lock,
        run=number,
        id=run_id,
        info=info,
        session=2,
        last=_last_numbers(connection, number),
        clock=clock,
    )


def _copy(database: Database, connection: Connection, number: int, old: Connection, old_number: int) -> None:
    """Copy the settled calls; each with its outcome, in one look, since the old run may be under way."""
    changed: Mapping[str, Any] = {"run": number, "session": 1, "source": "fork", **dict.fromkeys(USAGE_COLUMNS, 0)}
    columns = ", ".join([f"call.{name}" for name in CALL.columns] + [f"outcome.{name}" for name in OUTCOME.columns])
    width, last = len(CALL.columns), 0
    while rows := old.execute(f"SELECT {columns} {_SETTLED}", (old_number, last, _CHUNK)).fetchall():
        for insert, part in ((CALL, slice(width)), (OUTCOME, slice(width, None))):
            database.insert(connection, insert, [_changed(insert, row[part], changed) for row in rows])
        last = rows[-1][CALL.columns.index("id")]
    last = 0
    columns = ", ".join(QUESTION.columns)
    while rows := old.execute(f"SELECT {columns} {_QUESTIONS}", (old_number, last, _CHUNK)).fetchall():
        database.insert(connection, QUESTION, [_changed(QUESTION, row, changed) for row in rows])
        last = rows[-1][QUESTION.columns.index("id")]


def _changed(insert: Insert, row: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
    return [values.get(column, value) for column, value in zip(insert.columns, row, strict=True)]


def _last_numbers(connection: Connection, number: int) -> dict[str, int]:
    last = {}
    for table, key in _KEYS.items():
        found = connection.execute(f"SELECT MAX({key}) FROM {table} WHERE run = ?", (number,)).fetchone()[0]  # noqa: S608 - constants
        last[table] = found or 0
    return last


def number_of(connection: Connection, run_id: str) -> int:
    """The number of a run in its database.

    Raises:
        StoreError: It is not there.
    """
    found = connection.execute("SELECT number FROM run WHERE id = ?", (run_id,)).fetchone()
    if found is None:
        raise StoreError(f"run {run_id}: there is no such run")
    return int(found[0])
