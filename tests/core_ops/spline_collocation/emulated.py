"""The kernels of spline.cuh on fibres of the host, behind the same operator: their arithmetic without a GPU."""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from torch import Tensor

from farfield.core_ops.spline_collocation import fused, kernel_cuda
from farfield.core_ops.spline_collocation.kernel_cuda import SOURCE, Plan

PROGRAM = Path(__file__).parent / "emulation" / "warps.cpp"
available = shutil.which("g++") is not None
has_nvcc = shutil.which("nvcc") is not None


@cache
def library(plan: Plan, backward: bool) -> ctypes.CDLL:
    """The kernels of a plan, compiled for the host."""
    out = Path(mkdtemp(prefix="spline")) / "kernel.so"
    macros = [f"-D{name}={value}" for name, value in plan.options(backward).items()]
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", f"-I{SOURCE.parent}"]
    subprocess.run(["g++", *flags, *macros, "-o", str(out), str(PROGRAM)], check=True)
    return ctypes.CDLL(str(out))


def launch(plan: Plan, name: str, tensors: tuple[Tensor, ...], series: int, sizes: tuple[int, ...]) -> None:
    """kernel_cuda.launch, on the host."""
    if series == 0:
        return
    backward = name == "spline_backward"
    warps, inputs = plan.warps_of(backward), 5 if backward else 3
    assert all(t.is_contiguous() and t.dtype == plan.dtype for t in tensors)
    address = [t.data_ptr() for t in tensors]
    kernels = library(plan, backward)
    assert kernels.shared_bytes() == warps * plan.bytes(backward)
    kernels.emulate(
        -(-series // (warps * (32 // plan.lanes))), kernels.shared_bytes(),
        (ctypes.c_void_p * inputs)(*address[:inputs]), (ctypes.c_void_p * 3)(*address[inputs:]),
        (ctypes.c_int * 6)(series, *sizes),
    )  # fmt: skip


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operator run here."""
    monkeypatch.setattr(kernel_cuda, "launch", launch)
    monkeypatch.setattr(fused, "absent", lambda device: None)
