"""What a run is charged: the sum over its calls. There is no other record of it that could disagree."""

from __future__ import annotations

from llmprog.runs.schema import Connection
from llmprog.types import Usage

_SUMS = (
    "CAST(COALESCE(SUM({0}calls), 0) AS BIGINT), CAST(COALESCE(SUM({0}prompt_tokens), 0) AS BIGINT), "
    "CAST(COALESCE(SUM({0}completion_tokens), 0) AS BIGINT), COALESCE(SUM({0}usd), 0.0), COUNT(*) - COUNT({0}usd)"
)
_BOUNDS = _SUMS.format("call.bound_")

_OUTCOMES = (
    f"SELECT {_SUMS.format('')}, CAST(COALESCE(SUM(cached_tokens), 0) AS BIGINT), "  # noqa: S608 - constants only
    "CAST(COALESCE(SUM(reasoning_tokens), 0) AS BIGINT), CAST(COALESCE(SUM(cache_hits), 0) AS BIGINT) "
    "FROM outcome WHERE run = ?"
)
_UNDER_WAY = (
    f"SELECT {_BOUNDS} FROM call LEFT JOIN outcome ON outcome.run = call.run AND outcome.call = call.id "  # noqa: S608 - the same
    "WHERE call.run = ? AND outcome.call IS NULL"
)
_ATTEMPTS = (
    f"SELECT {_BOUNDS} FROM attempt JOIN call ON call.run = attempt.run AND call.id = attempt.call "  # noqa: S608 - the same
    "WHERE attempt.run = ? AND attempt.is_billed = 1"
)


def charged(connection: Connection, run: int) -> Usage:
    """What run number ``run`` is charged.

    That is what settled calls cost, what is charged for failed ones, and the bound of every call whose fate is not
    known and of every failed attempt that may have been billed.
    """
    total = Usage()
    for sql in (_OUTCOMES, _UNDER_WAY, _ATTEMPTS):
        calls, prompt_tokens, completion_tokens, usd, num_unknown, *details = connection.execute(sql, (run,)).fetchone()
        total += Usage(calls, prompt_tokens, completion_tokens, None if num_unknown else float(usd), *details)
    return total
