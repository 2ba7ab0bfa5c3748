"""Renew what the pages show of the embedded model: ``python docs/refresh.py``, after training.

Blocks marked ``example`` show output that changes with the weights, so the tests do not compare it. This runs every
page and writes the real output into them: after a snippet in full, after a command its beginning and its end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import test_docs as pages  # noqa: E402 - found by the line above

HEAD, TAIL = 9, 3


def shortened(text: str) -> str:
    """The first and last lines of a long output."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    if len(lines) > HEAD + TAIL + 1:
        lines = [*lines[:HEAD], "…", *lines[-TAIL:]]
    return "\n".join(lines) + "\n"


def commands_renewed(block: pages.Block) -> str:
    """The text of a block of commands, with new output where output is shown."""
    text = block.text[: block.text.index("$ ")]
    for command, shown in pages.commands_of(block):
        text += f"$ {command}\n"
        printed, _ = pages.llmprog(command)
        text += shortened(printed) if shown.strip() else shown
    return text


def refresh(page: Path) -> None:
    """Run a page in an empty folder and rewrite its examples."""
    session = pages.Session(page)
    sys.modules[session.module.__name__] = session.module
    lines = page.read_text().split("\n")
    moved = 0
    last = None
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(ROOT / "docs/recordings", "docs/recordings")
        sys.path.insert(0, folder)
        for block in pages.blocks_of(page):
            new = block.text
            if block.language == "console" and "example" in block.words:
                new = commands_renewed(block)
            elif block.language == "text" and block.follows and last == "python" and "example" in block.words:
                new = session.printed
            elif block.language == "python":
                session.run(block)
            start = block.line - 1 + moved
            old, fresh = block.text.count("\n"), new.rstrip("\n").split("\n")
            lines[start : start + old] = fresh
            moved += len(fresh) - old
            last = block.language
        sys.path.remove(folder)
    page.write_text("\n".join(lines))


if __name__ == "__main__":
    os.environ["COLUMNS"] = pages.WIDTH
    for path in pages.PAGES:
        refresh(path)
