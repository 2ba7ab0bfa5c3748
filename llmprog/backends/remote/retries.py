"""The one layer of retries: which errors are tried again, after how long, and when it is given up."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from llmprog.backends.accounts import attempts
from llmprog.backends.remote.health import PoisonTest, RetryBudget
from llmprog.errors import BackendError, EndpointDownError, RequestRefusedError
from llmprog.log import Log
from llmprog.tracing import note_retry

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
_VOLATILE = re.compile(r"[\w-]*\d[\w-]*")  # words with digits: request ids, times

_log = Log("llmprog.remote")


@dataclass(slots=True)
class Tries:
    """What has been tried for one call.

    Attributes:
        began: When its first attempt began, in seconds of the monotonic clock.
        count: Requests sent.
        possibly_billed: Whether the provider may charge for one of those that failed.
    """

    began: float | None = None
    count: int = 0
    possibly_billed: bool = False
    poison: PoisonTest | None = None
    is_poison: bool = False
    gave_up: str = ""


class Retries:
    """Tries failed calls of one endpoint again: those whose error says that it may pass, and within bounds.

    Args:
        backend: Id of the backend, for messages.
        max_attempts: Attempts of one call, >= 1.
        deadline_s: Seconds from the beginning of a call's first attempt to the end of its last.
        budget: Shared by all calls of the endpoint.
        num_successes: Calls that the endpoint has answered so far.
        clock: Monotonic seconds.
        sleep: Sleeps that many seconds.
        rng: Draws the jitter.
    """

    def __init__(
        self,
        backend: str,
        *,
        max_attempts: int,
        deadline_s: float,
        budget: RetryBudget,
        num_successes: Callable[[], int],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self.budget = budget
        self.num_retries = 0
        self._backend = backend
        self._max_attempts = max_attempts
        self._deadline_s = deadline_s
        self._num_successes = num_successes
        self._clock = clock
        self._sleep = sleep
        self._rng = rng

    def left_s(self, tries: Tries) -> float:
        """Seconds left until the call's deadline, which begins to run when this is first asked."""
        now = self._clock()
        if tries.began is None:
            tries.began = now
        return tries.began + self._deadline_s - now

    async def after(self, first: BackendError, tries: Tries, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of a later attempt of a call whose first one failed with ``first``.

        Raises:
            BackendError: The last attempt's error, with the number of attempts and why there is no further one.
            BudgetExceededError: The failed attempt may be billed, and the budget does not allow another.
        """
        failed, ended = first, self._clock()
        begun = ended if tries.began is None else tries.began
        is_first = True

        async def next_attempt() -> T:
            nonlocal failed, begun, ended, is_first
            if is_first:
                is_first = False
                raise failed
            self.num_retries += 1
            note_retry(failed, ended - begun)
            if (call := attempts.get()) is not None:
                await call.again(failed, ended - begun)
            begun = self._clock()
            try:
                return await attempt()
            except BackendError as error:
                failed, ended = error, self._clock()
                raise

        retrying = AsyncRetrying(
            sleep=self._sleep,
            stop=lambda state: self._gives_up(tries, state),
            wait=self._backoff_s,
            retry=retry_if_exception(may_retry),
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            return await retrying(next_attempt)
        except BackendError as error:
            raise self._last_word(tries, error) from error.__cause__

    def _gives_up(self, tries: Tries, state: RetryCallState) -> bool:
        error = _error_of(state)
        if isinstance(error.status, int) and error.status >= 500:
            tries.poison = tries.poison or PoisonTest()
            signature = error.status, _VOLATILE.sub("", str(error))
            tries.is_poison = tries.poison.is_poison(signature, self._num_successes())
        if tries.is_poison:
            tries.gave_up = "other calls succeeded meanwhile, so it is this request"
        elif state.attempt_number >= self._max_attempts:
            tries.gave_up = f"max_attempts={self._max_attempts}"
        elif state.upcoming_sleep >= self.left_s(tries):
            tries.gave_up = f"the next would be after deadline_s={self._deadline_s:g}"
        elif not self.budget.take():
            tries.gave_up = "not tried again: too many calls to this endpoint were retries of late"
        return bool(tries.gave_up)

    def _backoff_s(self, state: RetryCallState) -> float:
        """Full jitter, or as long as the endpoint asks."""
        longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(state.attempt_number - 1, 16))
        return max(self._rng.uniform(0, longest), _error_of(state).retry_after_s or 0.0)

    def _log_retry(self, state: RetryCallState) -> None:
        error = _error_of(state)
        _log.debug(
            "model call is tried again",
            backend=self._backend,
            attempt=state.attempt_number + 1,
            wait_s=round(state.upcoming_sleep, 3),
            error=type(error).__name__,
            status=error.status,
        )

    def _last_word(self, tries: Tries, error: BackendError) -> BackendError:
        """``error`` with what it took to get there."""
        took_s = 0.0 if tries.began is None else self._clock() - tries.began
        counted = f"{tries.count} attempt{'s' if tries.count != 1 else ''} in {took_s:.1f} s"
        note = f"{error} ({counted}; {tries.gave_up})" if tries.gave_up else f"{error} ({counted})"
        if tries.is_poison:
            refused = RequestRefusedError("", backend=self._backend, status=error.status)
            refused.__cause__ = error
            error = refused
        error.args = (note,)
        error.possibly_billed = error.possibly_billed or tries.possibly_billed
        return error


def may_retry(error: BaseException) -> bool:
    """Whether the error may pass; an allow-list, so that cancellation never counts."""
    return isinstance(error, BackendError) and error.retryable and not isinstance(error, EndpointDownError)


def _error_of(state: RetryCallState) -> BackendError:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, BackendError):
        raise TypeError(f"only a BackendError is tried again, not {error!r}")
    return error
