"""What one of several processes may use of the endpoint accounts that all of them use."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Allowance(Protocol):
    """Room for one request and its tokens in the limits per minute."""

    def settle(self, num_tokens: int) -> None:
        """The call took ``num_tokens``."""
        ...

    def release(self) -> None:
        """Nothing was sent."""
        ...


class Rate(Protocol):
    """The limits on requests and tokens per minute of one account."""

    async def reserve(self, num_tokens: int) -> Allowance:
        """Room for one request and its tokens, once there is."""
        ...


class AccountShare(Protocol):
    """A process's share of every account."""

    def concurrency(self, maximum: int) -> int:
        """How many of ``maximum`` calls in flight are this process's."""
        ...

    def rate(self, account: str, requests_per_minute: float | None, tokens_per_minute: float | None) -> Rate:
        """The limits per minute of an account, held in one place for all processes.

        Args:
            account: Tells accounts apart; it holds no secret.
            requests_per_minute: > 0; ``None`` is no limit.
            tokens_per_minute: > 0; ``None`` is no limit.
        """
        ...


@runtime_checkable
class SharingBackend(Protocol):
    """A backend with limits per account."""

    @property
    def max_concurrency(self) -> int:
        """Most calls in flight that the account gets."""
        ...

    def share_account(self, share: AccountShare) -> None:
        """Keep to a share of the account; said before the first call."""
        ...
