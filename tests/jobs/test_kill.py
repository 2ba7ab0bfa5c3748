"""A small run of ``benchmarks/kill.py``, which checks by itself what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.timeout(300)
@pytest.mark.fault("process", "SIGKILL at random moments of a job", "nothing settled is asked again; equal answers")
def test_a_job_that_is_killed_again_and_again_loses_nothing():
    sizes = ["--rows=30", "--samples=10", "--kills=3", "--faults=5", "--latency-ms=200"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *sizes], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 6
