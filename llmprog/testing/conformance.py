"""Runs the conformance checks: as pytest tests, or as a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from llmprog.backends.base import Backend
from llmprog.errors import LLMProgError, OptionError
from llmprog.testing.checks import CHECKS
from llmprog.testing.trial import Check, ConformanceError, NotApplicable, Trial
from llmprog.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one check came out; ``reason`` is empty where it passed."""

    check: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """How all checks came out; as text, one line per check.

    Attributes:
        findings: One per check, in the order of ``CHECKS``.
    """

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "failed")

    def __str__(self) -> str:
        width = max((len(finding.check) for finding in self.findings), default=0)
        return "\n".join(f"{f.check:<{width}}  {f.outcome:<7}  {f.reason}".rstrip() for f in self.findings)


async def check_backend(trial: Trial, *, skip: Mapping[str, str] | None = None) -> Report:
    """A report of all checks on a backend.

    Args:
        trial: The backend and what it is tried on.
        skip: Names of checks that are left out, each with the reason.

    Raises:
        OptionError: ``skip`` names an unknown check.
    """
    left_out = _known(skip)
    return Report(tuple([await _finding(check, trial, left_out) for check in CHECKS]))


async def _finding(check: Check, trial: Trial, left_out: Mapping[str, str]) -> Finding:
    if check.name in left_out:
        return Finding(check=check.name, outcome="skipped", reason=left_out[check.name])
    try:
        await check.run(trial)
    except NotApplicable as error:
        return Finding(check=check.name, outcome="skipped", reason=str(error))
    except (ConformanceError, LLMProgError) as error:
        return Finding(check=check.name, outcome="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - a finding about a third party's backend, not the end of the report
        return Finding(check=check.name, outcome="failed", reason=f"it raised {type(error).__name__}: {error}")
    return Finding(check=check.name, outcome="passed")


def backend_conformance(
    open: Callable[[], Backend],  # noqa: A002 - the word for it
    *,
    prompts: Sequence[str | Prompt],
    skip: Mapping[str, str] | None = None,
    **trial: Any,
) -> Callable[[Check], None]:
    """A pytest test, parametrised over all checks; assign it to a name that begins with ``test_``.

    Args:
        open: Opens a fresh backend; called once per check.
        prompts: Prompts that the model understands.
        skip: Names of checks that are left out, each with the reason.
        **trial: Further fields of ``Trial``: ``params``, ``template``, ``timeout_s``.

    Raises:
        OptionError: ``skip`` names an unknown check, or there are no prompts.
    """
    import pytest

    left_out = _known(skip)
    tried = Trial(open=open, prompts=prompts, **trial)

    def test(check: Check) -> None:
        if check.name in left_out:
            pytest.skip(left_out[check.name])
        check.test(tried)

    parametrised = pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])(test)
    return cast("Callable[[Check], None]", parametrised)


def _known(skip: Mapping[str, str] | None) -> Mapping[str, str]:
    names = [check.name for check in CHECKS]
    for name in skip or {}:
        if name not in names:
            raise OptionError.unknown("check", name, names)
    return skip or {}
