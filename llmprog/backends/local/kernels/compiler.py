"""Compiling kernels at run time: NVRTC through ``cuda.core``, without the CUDA toolkit.

Compiling needs no driver and no device, so it is tested everywhere; loading and launching need both.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING

import torch

from llmprog.errors import MissingExtraError

if TYPE_CHECKING:
    from cuda.core import Kernel, ObjectCode

CNumber = ctypes.c_int | ctypes.c_int64 | ctypes.c_float

_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one compiled kernel takes of a multiprocessor.

    Attributes:
        registers: Per thread.
        spilled_bytes: Stored and loaded per thread for want of registers.
    """

    registers: int
    spilled_bytes: int


@cache
def is_available(device: torch.device) -> bool:
    """Whether kernels can be compiled for, and launched on, this device; it is tried once."""
    if device.type != "cuda":
        return False
    try:
        compile_kernels("reveal.cu", _arch(device))
    except (MissingExtraError, RuntimeError, OSError):  # not installed, or NVRTC's library is missing or too old
        return False
    return True


def _arch(device: torch.device | int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def source(name: str) -> str:
    """The text of the kernel file called ``name``."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def compile_kernels(name: str, arch: str) -> tuple[ObjectCode, dict[str, Usage]]:
    """The kernels of one file as machine code, and what each takes.

    Args:
        name: File in this package.
        arch: Such as ``sm_90``.

    Raises:
        MissingExtraError: cuda.core or NVRTC is not installed.
    """
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise MissingExtraError("compiled kernels", error.name or "cuda.core", "cuda") from error
    log = StringIO()
    # No fused multiply-add: a product is rounded as torch rounds it, so that ties fall alike.
    options = ProgramOptions(name=name, arch=arch, std="c++17", fma=False, ptxas_options=["-v"])
    code = Program(source(name), "c++", options).compile("cubin", logs=log)
    return code, {
        kernel: Usage(registers=int(registers), spilled_bytes=int(stored) + int(loaded))
        for kernel, stored, loaded, registers in _USED.findall(log.getvalue())
    }


@cache
def _load(name: str, kernel: str, index: int) -> Kernel:
    """A kernel of one file on one device, compiled for it on first use."""
    return compile_kernels(name, _arch(index))[0].get_kernel(kernel)


def launch(name: str, kernel: str, arguments: Sequence[torch.Tensor | CNumber], *, grid: int, block: int) -> None:
    """Run a kernel on torch's current stream, behind what torch has put there.

    Args:
        name: File in this package.
        kernel: Function in it.
        arguments: Tensors on one CUDA device, as pointers, and numbers of their C types, in the function's order.
        grid: Blocks.
        block: Threads of each.
    """
    from cuda.core import Device, LaunchConfig
    from cuda.core import launch as cuda_launch

    device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    with torch.cuda.device(device):
        Device(device.index).set_current()
        loaded = _load(name, kernel, device.index)
        passed = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments]
        cuda_launch(torch.cuda.current_stream(), LaunchConfig(grid=grid, block=block), loaded, *passed)
