"""``make gpu``: the script itself runs, on any device, with a tiny model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmprog.backends.local.fused_layers import has_bfloat16_products

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_table_is_measured_on_a_tiny_model():
    table = run("--smoke", "--no-tests")
    rates = dict(re.findall(r"^(\S.*?) +(\d+) tokens/s +bound \d+ +\d+%$", table, re.MULTILINE))
    for cache in ("no cache", "dual cache"):
        for revealed in (1, 2, 4, 8):
            for form in ("eager", "graphs"):
                assert int(rates[f"LLaDA, {cache}, r={revealed}, {form}"]) > 0
    quantised = ("int8, graphs", "int4, graphs") if has_bfloat16_products() else ()
    for form in ("eager", "graphs", *quantised):
        assert int(rates[f"left to right, 3 rows, {form}"]) > 0
    assert table.count("reveal, ") == table.count(", same  ") == 2
    if not torch.cuda.is_available():
        assert table.count("same 100.00%") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_does_what_can_be_done_and_says_so():
    table = run()
    assert table.splitlines()[-1].startswith("no CUDA device: ")
    assert re.search(r"compile predict_bfloat16 for sm_90 +\d+ registers +0 bytes spilled", table)


def test_the_bound_of_an_h200_is_the_time_to_read_the_weights():
    done = subprocess.run(
        [sys.executable, "benchmarks/roofline.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rates = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("H200"))
    assert [int(rate) for rate in rates] == [309, 618, 1236, 2472]
