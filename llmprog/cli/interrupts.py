"""Ctrl-C: once drains, twice aborts."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def draining(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C, or the first polite request to terminate, call ``stop``; the next interrupts the block.

    A signal that the process was started to ignore stays ignored.
    """
    asked = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        sys.stderr.write("\nllmprog: no more is begun; waiting for what is under way (once more to abort it)\n")
        stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
