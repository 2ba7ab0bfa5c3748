"""What tests of program files share: small programs that are written in them."""

from __future__ import annotations

from typing import Any

import pytest

from llmprog.errors import SpecError
from llmprog.spec import form_text, read_program


def search(**changed: Any) -> dict[str, Any]:
    """A search of one step, with parts changed; a part that is ``None`` is left out."""
    form: dict[str, Any] = {
        "name": "small",
        "state": {"question": "text", "answer": "text"},
        "generators": [{"name": "reply", "prompt": "{question}", "parse": "text", "into": "answer"}],
        "controller": {"BestOfN": {"num_samples": 1}},
        "answer": "answer",
    }
    form.update(changed)
    return {key: part for key, part in form.items() if part is not None}


def program(form: Any, **options: Any) -> Any:
    return read_program(form_text(form, "yaml"), **options)


def faults(form: Any, **options: Any) -> str:
    """The faults of a form, a line each."""
    text = form if isinstance(form, str) else form_text(form, "yaml")
    with pytest.raises(SpecError) as caught:
        read_program(text, **options)
    return "\n".join(caught.value.faults)
