"""The CUDA source of spectra with taps before lag 0, run on host threads."""

import shutil

import pytest

from farfield.core_ops.fftconv.cuda.plan import RowPlan
from tests.core_ops.fftconv.test_cuda_emulated import errors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: CUDA sources were NOT emulated"),
]


@pytest.mark.parametrize(
    ("radices", "length", "taps", "lead"),
    [((16, 1, 8), 100, 61, 30), ((16, 4, 16), 1000, 1999, 999), ((16, 4, 16), 1024, 701, 80), ((16, 2, 16), 512, 9, 0)],
)
def test_taps_before_lag_0_are_exact(radices, length, taps, lead, tmp_path):
    row = RowPlan(radices, spectrum=2, staged=0)
    options = {**row.options(0, False, False), "LEAD": int(lead > 0)}
    (found,) = errors("two_sided.cpp", options, tmp_path, 3, 2, length, taps, lead)
    assert found < 5e-7
