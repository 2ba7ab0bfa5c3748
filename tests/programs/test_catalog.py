"""Programs looked up by name: those of a file of the user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmprog.errors import OptionError
from llmprog.programs import catalog

FILE = "from llmprog import generator\n\n@generator\ndef more(state: str) -> list[str]:\n    return ['{}']\n"
LOOK = "import sys; from llmprog.programs import catalog; print(catalog.load_module(*sys.argv[1:]).more('')[0])"


def looked_up(file: Path) -> str:
    """What the file says in a process of its own, which keeps bytecode as Python does by default."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", LOOK, str(file), "more"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_file_edited_within_a_second_to_the_same_size_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "mine_at_once.py"
    said = []
    for text in ("old", "new"):
        file.write_text(FILE.format(text))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        said.append(looked_up(file))
    assert said == ["old", "new"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"program 'it': no file '.*none.py'"):
        catalog.load_module(str(tmp_path / "none.py"), "it")
