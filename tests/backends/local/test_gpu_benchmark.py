"""``make gpu``: the script itself runs, on any device, with a tiny model."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmprog.backends.local.kernels.predict import reference as predict_reference
from llmprog.backends.local.networks.fused_layers import has_bfloat16_products

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


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def predict_other_tokens(*arguments):
    said = predict_reference(*arguments)
    return said._replace(tokens=said.tokens + 1)


def reveal_nothing(canvas, *_):
    pass


@pytest.mark.parametrize(
    ("name", "fault", "status"),
    [("predict_reference", predict_other_tokens, 1), ("reveal_reference", reveal_nothing, 1), ("SEED", 1, 0)],
)
def test_a_kernel_that_differs_from_its_reference_fails_the_run(script, monkeypatch, capsys, name, fault, status):
    monkeypatch.setattr(script, name, fault)
    for measure in ("measure_diffusion", "measure_autoregressive"):
        monkeypatch.setattr(script, measure, lambda *_: None)  # what is not compared takes long
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--no-tests"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == status
    assert ("NOT THE SAME" in capsys.readouterr().out) == (name == "reveal_reference")


@pytest.mark.parametrize("is_right", [True, False])
def test_tests_that_fail_are_told(script, monkeypatch, capsys, tmp_path, is_right):
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "tests" / "backends").mkdir(parents=True)
    test = f"import pytest\n\n\n@pytest.mark.gpu\ndef test_something():\n    assert {is_right}\n"
    (tmp_path / "tests" / "backends" / "test_something.py").write_text(test)
    assert script.run_tests() == is_right
    assert ("1 passed" if is_right else "1 failed") in capsys.readouterr().out


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
