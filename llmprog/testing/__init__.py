"""A conformance suite for backends: one line gives a third-party backend every test that llmprog's own pass.

With pytest::

    from llmprog.testing import backend_conformance
    from my_package import MyBackend

    test_conformance = backend_conformance(MyBackend, prompts=["Say a word."])

makes one test per check, needs no plugin, and skips, with the reason, what the backend does not claim to do. Where a
fixture is needed (a server, say), parametrise a test of your own::

    from llmprog.testing import CHECKS, Trial

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_conformance(check, server):
        check.test(Trial(open=lambda: MyBackend(server.url), prompts=["Say a word."]))

Without pytest, ``asyncio.run(check_backend(trial))`` gives a ``Report``. Importing this package does not import pytest.
"""

from llmprog.testing.checks import CHECKS
from llmprog.testing.conformance import Finding, Report, backend_conformance, check_backend
from llmprog.testing.trial import Check, ConformanceError, NotApplicable, Trial

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "Finding",
    "NotApplicable",
    "Report",
    "Trial",
    "backend_conformance",
    "check_backend",
]
