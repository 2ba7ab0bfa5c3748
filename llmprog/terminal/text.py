"""Text for terminals: hostile text is defused."""

from __future__ import annotations

import unicodedata


def plain_lines(text: str) -> str:
    """``text`` with its line breaks, each line ``plain``."""
    return "\n".join(plain(line) for line in text.replace("\r\n", "\n").split("\n"))


def plain(text: str) -> str:
    """``text`` on one line, without control, format (bidirectional, too) or surrogate characters."""
    return "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
