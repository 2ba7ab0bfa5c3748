"""Recorded canvases, as pages show them: every step with all of its tokens.

A run that streams keeps how each canvas was written as events ``canvas``: of every step only what changed. Readers want
a step as a whole; what a journal holds may come from anywhere, so nothing of it is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmprog.errors import StoreError

MOST_TOKENS = 1 << 17
"""The longest canvas that is read; a journal that claims a longer one is not believed."""


MOST_TOKENS_OF_ALL_STEPS = 1 << 22
"""How many tokens the steps of one canvas may have together; what a few bytes claim could fill all memory."""


def full_steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of a ``canvas`` event, each of them whole.

    Args:
        data: The event's ``data``.

    Returns:
        ``{"at", "tokens": [[text, probability], ...]}`` for each step, where a text of ``None`` is a mask and a
        probability of ``None`` is not known; ``{"at", "text"}`` where the backend told of no tokens.

    Raises:
        StoreError: The event is not of this form.
    """
    try:
        return _read(data)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a recorded canvas cannot be read: {type(error).__name__}: {error}") from error


def _read(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    tokens: list[list[Any]] = []
    num_tokens = 0
    for step in data["steps"]:
        at = None if step["at"] is None else float(step["at"])
        if "text" in step:
            found.append({"at": at, "text": str(step["text"])})
            continue
        length = int(step["length"])
        if not 0 <= length <= MOST_TOKENS:
            raise ValueError(f"a canvas of {length} tokens; allowed are 0 to {MOST_TOKENS}")
        num_tokens += length
        if num_tokens > MOST_TOKENS_OF_ALL_STEPS:
            raise ValueError(f"its steps have more than {MOST_TOKENS_OF_ALL_STEPS} tokens together")
        tokens = [*tokens[:length], *([None, None] for _ in range(length - len(tokens)))]
        for place, text, probability in step["changes"]:
            if not 0 <= place < length:
                raise ValueError(f"token {place} of a canvas of {length}")
            tokens[place] = [
                None if text is None else str(text),
                None if probability is None else float(probability),
            ]
        found.append({"at": at, "tokens": tokens})
    return found
