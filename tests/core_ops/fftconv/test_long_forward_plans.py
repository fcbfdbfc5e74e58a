"""Plans of long rows fit their devices; their kernels, emulated on host threads, are exact, and compile."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from farfield.core_ops.fftconv.cuda.long_forward import FORWARD_PLANS, ForwardPlan, fitted, forward_plan
from farfield.core_ops.fftconv.cuda.plan import RESERVED, ROWS, Device

H100 = Device(232448, 233472, 132)
ADA = Device(101376, 102400, 128)
SOURCES = Path(__file__).parents[3] / "core_ops" / "fftconv" / "cuda"
HERE = Path(__file__).parent / "emulation"
SMALL = ForwardPlan((16, 4), ROWS[128])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("staged", [True, False])
def test_every_length_has_a_plan_that_fits(dtype, staged):
    item, wide = dtype.itemsize, dtype == torch.float32
    for size in FORWARD_PLANS:
        plan = forward_plan(size, dtype, H100, (True, True), staged)
        assert plan is not None
        assert plan.size == size
        needed = max(plan.forward_bytes(item, True, staged), plan.inverse_bytes(item, True, staged, wide, H100))
        assert plan.column_blocks * (needed + RESERVED) <= H100.sm_bytes
        assert plan.row.blocks * (plan.row_bytes(wide) + RESERVED) <= H100.sm_bytes
        assert plan.tiles % 4 == 0


def test_less_shared_memory_gives_up_the_second_tile_before_a_block():
    plan = ForwardPlan((32, 8), ROWS[256])
    assert fitted(plan, 2, H100, (True, True), True, False) == plan
    single = fitted(plan, 4, H100, (True, True), True, True)
    assert single is not None
    assert (single.forward_deep, single.inverse_deep, single.column_blocks) == (1, 1, 2)
    small = fitted(plan, 2, ADA, (True, True), True, False)
    assert small is not None
    assert small.column_blocks == 1
    assert fitted(replace(plan, column=(32, 16)), 4, ADA, (True, True), True, True) is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: CUDA sources were NOT emulated")
@pytest.mark.parametrize(
    ("wide", "deep", "length", "loud", "changed"),
    [
        (True, 1, 7996, 1, {}),
        (False, 2, 7996, 1, {"PRE": 0}),
        (False, 2, 8192, 3000, {}),
        (False, 2, 8192, 1, {"SHIFT": 0}),
        (False, 2, 8192, 3000, {"SHIFT": 0}),
        (True, 2, 8192, 1, {"SHIFT": 0, "POST": 0}),
        (False, 1, 7001, 1, {"STAGED": 0}),
    ],
)
def test_three_passes_are_exact(wide, deep, length, loud, changed, tmp_path):
    plan = replace(SMALL, forward_deep=deep, inverse_deep=deep)
    options = {**plan.options(0, True, True, True, wide, H100), **changed}
    macros = [f"-D{name}={value}" for name, value in options.items()]
    command = ["g++", "-std=c++20", "-O1", "-w", "-pthread", f"-I{SOURCES}", f"-I{HERE}", *macros]
    subprocess.run([*command, "-o", tmp_path / "run", HERE / "long_forward.cpp"], check=True)
    for together in ("1", "2"):
        sizes = ("2", "2", str(length), str(loud), together)
        done = subprocess.run([tmp_path / "run", *sizes], capture_output=True, text=True, check=True)
        assert float(done.stdout) < (5e-7 if wide else 5e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: CUDA sources were NOT compiled")
@pytest.mark.parametrize("architecture", ["80", "86", "89", "90a", "100", "120"])
def test_the_passes_compile_without_spills(architecture, tmp_path):
    options = ForwardPlan((32, 8), ROWS[256]).options(2, True, True, True, False, H100)
    macros = [f"-D{name}={value}" for name, value in options.items()]
    flags = ["-std=c++17", f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin", "-x", "cu", *macros]
    command = ["nvcc", *flags, "-o", tmp_path / "out.cubin", SOURCES / "long_forward.cuh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("0 bytes spill stores") == 3 or architecture != "90a"
