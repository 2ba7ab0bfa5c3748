"""Where the progress of a run is shown that was asked to show it: below a notebook's cell, or on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmprog.errors import OptionError
from llmprog.events import Event
from llmprog.program import Program

Observer = Callable[[Event], None]


@contextmanager
def run_display(program: Program, on_event: Observer | None, *, enabled: bool) -> Iterator[Observer | None]:
    """Whom to tell of a run's events, which is shown while the block runs; ``on_event`` alone unless ``enabled``.

    In a notebook it is shown by a ``LiveView``, on a terminal by lines that are redrawn. Elsewhere, and with
    ``NO_COLOR``, a line every ten seconds says how far it is. On stderr a line stays that says how it ended.

    Args:
        program: What is run.
        on_event: Who is told in any case.
        enabled: Whether it is shown.
    """
    if not enabled:
        yield on_event
        return
    from llmprog.notebook import LiveView, in_notebook

    if in_notebook():
        view = LiveView()
        try:
            yield _both(on_event, view.take)
        except BaseException:
            view.end()
            raise
        return
    from llmprog.terminal.area import stderr_console
    from llmprog.terminal.live import live_progress

    with live_progress(stderr_console(), enabled=True, name=program.name) as show:
        yield _both(on_event, show)


def check_choice(progress: Any) -> None:
    """Refuse what does not say whether progress is shown.

    Raises:
        OptionError: It is neither true nor false.
    """
    if not isinstance(progress, bool):
        raise OptionError(f"progress={progress!r}; allowed are True, which shows how far it is, and False")


def _both(first: Observer | None, second: Observer) -> Observer:
    if first is None:
        return second

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell
