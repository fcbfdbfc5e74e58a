"""Every CUDA source compiles for every architecture that is promised; skipped without nvcc."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from farfield.core_ops.fftconv.cuda import gradient_plan, plan

ARCHITECTURES = ("80", "86", "89", "90a", "100", "120")
SOURCES = Path(plan.__file__).parent
H100 = plan.Device(232448, 233472, 132)
ADA = plan.Device(101376, 102400, 128)


def cases():
    """(source, options): one plan of each kernel."""
    row, back = plan.FORWARD[4096, 2][0], gradient_plan.BACKWARD[2048][0]
    yield "onepass.cuh", row.options(2, True, True)
    yield "spectrum.cuh", row.spectrum_options()
    yield "backward.cuh", back.options(1, True, True)
    yield "backward.cuh", gradient_plan.BACKWARD[8192][0].options(2, True, True)
    yield "backward_pair.cuh", gradient_plan.PAIRS[16384].options(2, True, True)
    long = gradient_plan.LONG_BACKWARD[65536][0]
    yield "columns.cuh", long.column_options(2, (True, True, True), True, False, False)
    yield "columns.cuh", long.filter_gradient_options(True)
    yield "long_backward.cuh", long.row_options(2, True, False, False)
    yield "packing.cuh", {"ITEM": 2}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: CUDA sources were NOT compiled")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_source_compiles(architecture, tmp_path):
    for source, options in cases():
        macros = [f"-D{name}={value}" for name, value in options.items()]
        command = ["nvcc", "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-x", "cu", *macros]
        done = subprocess.run(
            [*command, "-o", tmp_path / "out.cubin", SOURCES / source], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", [H100, ADA], ids=["h100", "ada"])
@pytest.mark.parametrize("item", [2, 4])
def test_short_rows_have_a_plan_that_fits(device, item):
    for size in (1 << m for m in range(7, 15)):
        row = plan.first_fitting(
            plan.FORWARD.get((size, item), ()), device, True, lambda p: p.forward_bytes(item, True)
        )
        assert row is None or row.blocks * (row.forward_bytes(item, True) + plan.RESERVED) <= device.sm_bytes
        assert row is not None or device is ADA, size


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("item", [2, 4])
def test_every_length_has_gradients_that_fit(item, wide):
    for size in (1 << m for m in range(7, 23)):
        row = gradient_plan.backward_plan(size, item, (True, True), H100, False)
        long = gradient_plan.long_backward_plan(size, item, wide or item == 4, True, H100, True)
        assert (row is None) == (size > 8192)
        assert (long is None) == (size < 8192)
        pair = gradient_plan.pair_plan(size, H100, False, wide)
        assert pair is None or pair.blocks * (gradient_plan.pair_bytes(pair) + plan.RESERVED) <= H100.sm_bytes
        assert (gradient_plan.pair_plan(size, H100, True, wide) is None) == (size != 16384 or not wide)
        assert gradient_plan.pair_plan(size, ADA, False, wide) is None
        if long is not None:
            assert long.size == size
            columns, lines = long.column_bytes(item, wide or item == 4, True, True), long.row_bytes(wide or item == 4)
            assert long.column_blocks * (columns + plan.RESERVED) <= H100.sm_bytes
            assert long.row_blocks * (lines + plan.RESERVED) <= H100.sm_bytes


def test_a_plan_takes_fewer_blocks_where_shared_memory_is_short():
    row = plan.FORWARD[4096, 2][0]
    fitted = plan.first_fitting((row,), ADA, True, lambda p: p.forward_bytes(2, True))
    assert fitted == replace(row, blocks=1)
    assert plan.first_fitting((row,), ADA, False, lambda p: p.forward_bytes(2, True)) is None
