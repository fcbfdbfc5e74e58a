"""The CUDA sources run on host threads, one a CUDA thread: index flow, barriers and arithmetic without a GPU."""

import shutil
import subprocess
from pathlib import Path

import pytest

from farfield.core_ops.fftconv.cuda import gradient_plan, plan

SOURCES = Path(plan.__file__).parent
HERE = Path(__file__).parent / "emulation"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: CUDA sources were NOT emulated"),
]


def errors(program, options, folder, *sizes):
    """Compile one program with macros and run it."""
    macros = [f"-D{name}={value}" for name, value in options.items()]
    command = ["g++", "-std=c++20", "-O1", "-w", "-pthread", f"-I{SOURCES}", f"-I{HERE}", *macros]
    subprocess.run([*command, "-o", folder / "run", HERE / program], check=True)
    done = subprocess.run([folder / "run", *map(str, sizes)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("row", "length", "taps"),
    [
        (plan.RowPlan((16, 1, 8), groups=2, spectrum=0), 128, 128),
        (plan.RowPlan((16, 1, 16), spectrum=1, staged=0), 201, 100),
        (plan.RowPlan((16, 4, 16), spectrum=2, padded=0), 1000, 1001),
        (plan.RowPlan((16, 4, 16), spectrum=0, staged=2), 1024, 700),
    ],
)
def test_one_launch_rows_are_exact(row, length, taps, tmp_path):
    found = errors("rows.cpp", row.options(0, True, True), tmp_path, 5, 2, length, taps)
    assert len(found) == 6
    assert max(found) < 6e-7


@pytest.mark.parametrize(
    ("long", "wide", "staged", "length"),
    [
        (gradient_plan.LongBackwardPlan((16, 4), (16, 1, 8)), False, True, 7996),
        (gradient_plan.LongBackwardPlan((4, 1), (16, 4, 16), held=True), False, False, 4001),
        (gradient_plan.LongBackwardPlan((4, 2), (16, 2, 16)), True, True, 4096),
    ],
)
def test_gradients_of_three_passes_are_exact(long, wide, staged, length, tmp_path):
    options = {
        **long.column_options(0, (True, True, True), staged, wide, False),
        **long.row_options(0, True, wide, False), "FILTER_WIDE": 1,
    }  # fmt: skip
    dk, dpost, dpre, du = errors("long_backward.cpp", options, tmp_path, 2, 2, length)
    assert dk < 1e-6
    assert max(du, dpre, dpost) < (5e-7 if wide else 3e-4)


@pytest.mark.parametrize(
    ("row", "length", "taps"),
    [(plan.RowPlan((8, 8, 4), staged=0), 250, 201), (plan.RowPlan((32, 8, 16), staged=0, padded=0), 4096, 4096)],
)
def test_gradients_by_two_blocks_a_row_are_exact(row, length, taps, tmp_path):
    found = errors("pair.cpp", row.options(0, True, True), tmp_path, 2, 1, length, taps)
    assert len(found) == 4
    assert max(found) < 6e-7


@pytest.mark.parametrize(
    ("row", "paired", "sizes"),
    [
        (plan.RowPlan((16, 1, 8), groups=2), False, (5, 2, 120, 201, 90)),
        (plan.RowPlan((16, 4, 16), padded=0), False, (3, 1, 1000, 1601, 700)),
        (plan.RowPlan((8, 8, 4), staged=0), True, (3, 2, 250, 401, 170)),
    ],
)
def test_gradients_of_taps_before_lag_0_are_exact(row, paired, sizes, tmp_path):
    options = {**row.options(0, True, True), "LEAD": 1, "PAIRED": int(paired)}
    found = errors("two_sided_backward.cpp", options, tmp_path, *sizes)
    assert len(found) == 3
    assert max(found) < 6e-7
