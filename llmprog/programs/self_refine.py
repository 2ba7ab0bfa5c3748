"""A draft that the model itself criticises and writes anew, until its criticism finds nothing to change."""

from __future__ import annotations

from llmprog.program import Program
from llmprog.programs.revision import Draft, commenting, drafting, parse_task, revising, rounds, text_of

_FEEDBACK = """A task, and what was written for it. Say what ought to be better about it, and how: name the place and
the change. Praise is of no use.

Task: {task}

Written:
{text}

If something has to change, end with the line
Verdict: revise
If nothing has, end with the line
Verdict: good
"""
_REVISE = """A task, and what was written for it so far, with what was said of each version.

Task: {task}

{history}

Write it anew, so that what was said of the last version no longer holds, and what was good stays. Give the
new version and nothing else.
"""


def self_refine(
    *,
    num_samples: int = 1,
    max_rounds: int = 4,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    system: str | None = None,
) -> Program:
    """Write something by drafting it and refining it by the model's own feedback (Madaan et al. 2023).

    A draft that the feedback accepts is a solution. The nodes ``draft``, ``feedback`` and ``revise`` can have backends
    of their own.

    Args:
        num_samples: Drafts that are refined side by side; the first that is accepted is the answer.
        max_rounds: Times that feedback is asked for, and heeded.
        temperature: Of drafts, feedback and revisions.
        max_tokens: Longest draft, feedback or revision, in the model's tokens.
        system: A system prompt for the draft; none by default.
    """
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    return Program(
        name="self_refine",
        start=parse_task("self_refine"),
        generators=[
            drafting(system, **sampling),
            commenting("feedback", _ask_for_feedback, _unchanged, **sampling),
            revising(_ask_for_revision, **sampling),
        ],
        controller=rounds("feedback", is_accepted, num_drafts=num_samples, max_rounds=max_rounds),
        goal=is_accepted,
        answer=text_of,
        explain=_explain,
    )


def is_accepted(state: Draft) -> bool:
    """Whether the feedback finds nothing to change."""
    return state.is_good


def _ask_for_feedback(state: Draft) -> str:
    return _FEEDBACK.format(task=state.task, text=state.text)


def _ask_for_revision(state: Draft) -> str:
    """All versions and what was said of them, as in the paper's equation 4."""
    return _REVISE.format(task=state.task, history=state.history)


def _unchanged(state: Draft) -> Draft:
    return state


def _explain(state: Draft) -> str:
    return (
        "no version was accepted by the feedback within max_rounds; the last version is the answer; a model that never "
        "ends with 'Verdict: good' accepts nothing: raise max_rounds, or give the node feedback a larger model"
    )
