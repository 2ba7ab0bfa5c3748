"""The kernels: compiled for sm_90, their logic run by g++ against the references, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from llmprog.backends.local import kernels
from llmprog.backends.local.kernels import Predicted, compiler, predict, reveal
from llmprog.backends.local.kernels.predict import reference as predict_reference
from llmprog.backends.local.kernels.reveal import reference as reveal_reference
from llmprog.backends.local.sampling import Sampler, token_logprobs
from llmprog.types import SamplingParams

EMULATION = Path(__file__).with_name("emulated_cuda.h")
MASK = 99


# Compiling needs no GPU.


@pytest.mark.parametrize(
    ("file", "names"), [("predict.cu", {"predict_float32", "predict_bfloat16"}), ("reveal.cu", {"reveal"})]
)
def test_kernels_compile_for_hopper_within_their_registers(file, names):
    code, usage = compiler.compile_kernels(file, "sm_90")
    assert code.code.startswith(b"\x7fELF")
    assert set(usage) == names
    for used in usage.values():
        assert used.spilled_bytes == 0
        assert used.registers <= 40  # 2048 threads of a multiprocessor share 65536; at 32 all of them can be resident


def test_a_fault_in_a_kernel_is_not_hidden(monkeypatch):
    monkeypatch.setattr(compiler, "source", lambda name: "not a kernel")
    with pytest.raises(Exception, match=r"not a kernel|NVRTC"):
        compiler.compile_kernels("predict.cu", "sm_90")


def test_there_are_no_kernels_for_a_processor():
    assert not kernels.is_available(torch.device("cpu"))


# Their logic, on threads of the processor.


@pytest.fixture(scope="session")
def emulated(tmp_path_factory) -> dict[str, ctypes.CDLL]:
    """The kernels compiled by g++, each behind a function that runs a grid of them."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("kernels")
    for name in ("predict", "reveal"):
        (folder / f"{name}.cpp").write_text(
            f'#include "{EMULATION}"\n{compiler.source(f"{name}.cu")}\n{LAUNCHERS[name]}', encoding="utf-8"
        )
        command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
        done = subprocess.run(
            [*command, f"{folder}/{name}.cpp", "-o", f"{folder}/{name}.so"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return {name: ctypes.CDLL(str(folder / f"{name}.so")) for name in ("predict", "reveal")}


LAUNCHERS = {
    "predict": """
extern "C" void launch(unsigned grid, unsigned block, int is_float, const void* logits, ARGUMENTS) {
    run(grid, block, [=] {
        if (is_float) predict_float32((const float*)logits, PASSED);
        else predict_bfloat16((const bf16*)logits, PASSED);
    });
}
""",
    "reveal": """
extern "C" void launch(
    unsigned grid, unsigned block, long long* canvas, const long long* tokens, const float* confidences,
    const long long* columns, const unsigned char* eligible, const long long* counts, float threshold, int is_leftmost,
    int num_columns, long long stride
) {
    run(grid, block, [=] {
        reveal(canvas, tokens, confidences, columns, eligible, counts, threshold, is_leftmost, num_columns, stride);
    });
}
""",
}


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def emulated_predict(library, logits, forbidden, keys, counters, temperature, min_p, block=8):
    rows, columns, size = logits.shape
    out = [torch.empty(rows, columns, dtype=torch.int64), *(torch.empty(rows, columns) for _ in range(3))]
    library["predict"].launch(
        rows * columns,
        block,
        int(logits.dtype == torch.float32),
        *map(pointer, (logits, forbidden, keys, counters, temperature, min_p, *out)),
        columns,
        size,
        forbidden.shape[0],
    )
    return Predicted(*out)


def emulated_reveal(library, canvas, tokens, confidence, columns, eligible, count, threshold, leftmost, block=8):
    library["reveal"].launch(
        len(canvas),
        block,
        *map(pointer, (canvas, tokens, confidence, columns, eligible, count)),
        ctypes.c_float(threshold),
        int(leftmost),
        tokens.shape[1],
        ctypes.c_longlong(canvas.stride(0)),
    )


def made_up_logits(seed: int, rows=3, columns=4, size=130, dtype=torch.float32, spread=4.0):
    """Arguments of ``predict``: rows that differ in temperature and min-p, and a different token forbidden in each."""
    torch.manual_seed(seed)
    logits = (torch.randn(rows, columns, size) * spread).to(dtype)
    forbidden = torch.zeros(rows, size, dtype=torch.bool)
    forbidden[torch.arange(rows), torch.randint(0, size, (rows,))] = True
    keys = torch.randint(-(2**63), 2**63 - 1, (rows,))
    counters = torch.randint(0, 2**24, (rows, columns))
    temperature = torch.tensor([0.0, 0.7, 1.3] * rows)[:rows]
    min_p = torch.tensor([0.0, 0.0, 0.05] * rows)[:rows]
    return logits, forbidden, keys, counters, temperature, min_p


def assert_predicts_alike(got, truth, arguments):
    """Equal tokens, except where two perturbed logits agree to rounding; numbers close."""
    assert torch.equal(got.tokens, truth.tokens)
    for name in ("confidence", "margin", "entropy"):
        torch.testing.assert_close(getattr(got, name), getattr(truth, name), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [2, 7, 130])
def test_predicting_is_the_reference(emulated, seed, dtype, size):
    arguments = made_up_logits(seed, dtype=dtype, size=size)
    assert_predicts_alike(emulated_predict(emulated, *arguments), predict_reference(*arguments), arguments)


@pytest.mark.parametrize("forbidden_rows", [1, 3])
def test_what_is_forbidden_is_shared_by_rows_or_of_each(emulated, forbidden_rows):
    logits, forbidden, *rest = made_up_logits(7)
    forbidden = forbidden[:forbidden_rows].clone()
    forbidden[:, logits[0, 0].argmax()] = True
    got = emulated_predict(emulated, logits, forbidden, *rest)
    assert_predicts_alike(got, predict_reference(logits, forbidden, *rest), rest)
    assert got.tokens[0, 0] != logits[0, 0].argmax()


@pytest.mark.parametrize("block", [2, 16, 32])
def test_of_equal_logits_the_lowest_token_is_chosen_whichever_thread_has_it(emulated, block):
    logits, forbidden, keys, counters, _, min_p = made_up_logits(1, size=64)
    logits[:] = 0.0
    logits[:, 0, [37, 38, 60]] = 5.0
    logits[:, 1, [63, 5]] = 5.0
    logits[:, 2, [16, 32, 48]] = 5.0
    forbidden[:] = False
    forbidden[:, 0] = True
    got = emulated_predict(emulated, logits, forbidden, keys, counters, torch.zeros(3), min_p, block=block)
    assert got.tokens.tolist() == [[37, 5, 16, 1]] * 3
    torch.testing.assert_close(got.margin, torch.zeros(3, 4))
    torch.testing.assert_close(got.entropy[:, 3], torch.full((3,), math.log(63)))


def test_extreme_logits_are_neither_infinite_nor_lost(emulated):
    logits, forbidden, keys, counters, _, min_p = made_up_logits(2, size=40)
    logits[0, 0] = torch.linspace(-1e30, 1e30, 40)
    logits[1, 1] = -1e4
    logits[2, 2, 1:] = -torch.inf
    forbidden[:] = False
    temperature = torch.zeros(3)
    got = emulated_predict(emulated, logits, forbidden, keys, counters, temperature, min_p)
    assert_predicts_alike(got, predict_reference(logits, forbidden, keys, counters, temperature, min_p), ())
    assert got.tokens[2, 2] == 0
    assert got.confidence[2, 2] == 1
    assert got.entropy[2, 2] == 0


def test_the_reference_draws_what_the_sampler_draws():
    logits, forbidden, keys, counters, temperature, min_p = made_up_logits(3)
    params = [
        SamplingParams(temperature=float(t), min_p=round(float(m), 2)) for t, m in zip(temperature, min_p, strict=True)
    ]
    plain = logits.masked_fill(forbidden.unsqueeze(1), -torch.inf)
    tokens = Sampler.of(params, keys.tolist(), torch.device("cpu")).sample(plain, counters)
    got = predict(logits, forbidden, keys, counters, temperature, min_p)
    assert torch.equal(got.tokens, tokens)
    torch.testing.assert_close(got.confidence, token_logprobs(plain, tokens).exp())


def made_up_canvas(seed: int, rows=4, columns=9, width=14):
    """Arguments of ``reveal``, among them equal confidences and columns that repeat behind the end of a block."""
    torch.manual_seed(seed)
    whole = torch.randint(0, 50, (rows, width + 5))
    canvas = whole[:, 5:]  # its rows are apart by more than its width, as a canvas behind prompts is
    places = (torch.randint(0, width - 3, (rows, 1)) + torch.arange(columns)).clamp(max=width - 1)
    eligible = (torch.rand(rows, columns) < 0.7) & (torch.arange(columns) < width - places[:, :1])
    eligible[-1] = False
    confidence = torch.randint(0, 8, (rows, columns)) / 8
    count = torch.randint(0, 4, (rows,))
    return canvas, torch.randint(50, 90, (rows, columns)), confidence, places, eligible, count


CLAIMS = [(math.inf, False), (0.5, False), (0.5, True), (math.inf, True), (0.0, False)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("threshold", "leftmost"), CLAIMS)
@pytest.mark.parametrize("block", [1, 4, 16])
def test_revealing_is_the_reference(emulated, seed, threshold, leftmost, block):
    arguments = made_up_canvas(seed)
    canvas = arguments[0].clone()
    reveal_reference(canvas, *arguments[1:], threshold, leftmost)
    emulated_reveal(emulated, *arguments, threshold, leftmost, block=block)
    assert torch.equal(arguments[0], canvas)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("threshold", "leftmost"), CLAIMS)
def test_the_reference_reveals_by_each_claim(seed, threshold, leftmost):
    canvas, tokens, confidence, columns, eligible, count = made_up_canvas(seed)
    before = canvas.clone()
    reveal(canvas, tokens, confidence, columns, eligible, count, threshold=threshold, leftmost=leftmost)
    expected = before.clone()
    for row in range(len(before)):
        places = [k for k in range(tokens.shape[1]) if eligible[row, k]]
        stay = {k for k in places if confidence[row, k] >= threshold}
        stay |= set(sorted(places, key=lambda k: -confidence[row, k])[: count[row]])
        stay |= set(places[:1]) if leftmost else set()
        for k in stay:
            expected[row, columns[row, k]] = tokens[row, k]
    assert torch.equal(canvas, expected)


# As operators of torch.


def test_the_operators_are_well_formed():
    arguments = made_up_logits(0)
    torch.library.opcheck(torch.ops.llmprog.predict.default, arguments)
    torch.library.opcheck(torch.ops.llmprog.reveal.default, (*made_up_canvas(0), 0.5, True))


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1000, 126464])
def test_predicting_on_a_gpu_is_the_reference(seed, dtype, size):
    arguments = made_up_logits(seed, rows=6, columns=32, size=size, dtype=dtype)
    truth = predict_reference(*arguments)
    got = Predicted(*(value.cpu() for value in predict(*(value.cuda() for value in arguments))))
    greedy = arguments[4] == 0
    assert torch.equal(got.tokens[greedy], truth.tokens[greedy])
    # Drawn tokens differ only where logarithms rounded by different libraries decide.
    assert (got.tokens == truth.tokens).float().mean() > 0.98
    for name in ("margin", "entropy"):
        torch.testing.assert_close(getattr(got, name), getattr(truth, name), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("threshold", "leftmost"), CLAIMS)
def test_revealing_on_a_gpu_is_the_reference(seed, threshold, leftmost):
    arguments = made_up_canvas(seed, rows=20, columns=64, width=80)
    on_gpu = [value.cuda() for value in arguments]
    reveal_reference(*arguments, threshold, leftmost)
    reveal(*on_gpu, threshold=threshold, leftmost=leftmost)
    assert torch.equal(on_gpu[0].cpu(), arguments[0])
