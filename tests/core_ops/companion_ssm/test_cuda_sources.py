"""The CUDA recurrence without a GPU: it compiles for every promised architecture, and runs on host threads."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from farfield.core_ops import FilterSpectrum, fftconv
from farfield.core_ops.companion_ssm import companion_kernel, companion_spectrum, cuda
from farfield.core_ops.errors import KernelUnavailable, ShapeError
from farfield.core_ops.fftconv.cuda.launch import SOURCES
from farfield.core_ops.fftconv.cuda.plan import FORWARD

ARCHITECTURES = ("80", "86", "89", "90a", "100", "120")
HERE = Path(__file__).parent / "emulation"
DEVICE = Path(__file__).parents[1] / "fftconv" / "emulation"
# Shared memory of a block on an H100.
H100 = 232448


def macros(options: dict[str, int]) -> list[str]:
    return [f"-D{name}={value}" for name, value in options.items()]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: CUDA sources were NOT compiled")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_source_compiles(architecture, tmp_path):
    cases = [
        cuda.options(64, 240, False, False, False, FORWARD[1024, 4][0]),
        cuda.options(64, 1024, True, True, True, None),
    ]
    for options in cases:
        command = ["nvcc", "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-x", "cu", f"-I{SOURCES}"]
        done = subprocess.run(
            [*command, *macros(options), "-o", tmp_path / "out.cubin", cuda.SOURCE],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: CUDA sources were NOT emulated")
@pytest.mark.parametrize(
    ("series", "plan", "d", "length", "block"),
    [
        (True, None, 5, 40, 16),
        (True, None, 70, 300, 80),
        (False, None, 1, 1, 16),
        (False, None, 70, 300, 80),
        (False, FORWARD[128, 4][0], 7, 97, 32),
        (False, FORWARD[512, 4][0], 100, 300, 112),
        (False, FORWARD[1024, 4][0], 64, 720, 240),
    ],
)
def test_it_runs_on_host_threads(series, plan, d, length, block, tmp_path):
    double = plan is None
    options = {**cuda.options(d, block, double, double, series, plan), "BLOCK": 128}
    shared = cuda.shared_bytes(d, block, series)
    if plan is not None:
        shared = max(shared, plan.spectrum_bytes) + 4 * length
    command = ["g++", "-std=c++20", "-O1", "-w", "-pthread", *(f"-I{p}" for p in (SOURCES, cuda.SOURCE.parent, DEVICE))]
    subprocess.run([*command, *macros(options), "-o", tmp_path / "run", HERE / "recurrence.cpp"], check=True)
    sizes = 3, d, length, block, shared
    done = subprocess.run([tmp_path / "run", *map(str, sizes)], capture_output=True, text=True, check=True)
    taps, spectra = (float(word) for word in done.stdout.split())
    assert taps <= (1e-12 if double else 6e-8)
    assert spectra <= (0 if double else 2e-7)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 96, 720, 4096, 8192, 100_000])
@pytest.mark.parametrize("d", [1, 15, 64, 100, 512, 2048])
def test_blocks_hold_the_past(d, length):
    for given in (1, d, length):
        block = cuda.block_terms(d, length, given)
        assert block % 16 == 0
        assert min(cuda.padded(d), length) <= block < length + 16
        assert cuda.shared_bytes(d, block, given == length) <= H100


def test_on_a_cpu_it_is_the_filter_and_keeps_gradients():
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(2, 5, generator=g).div_(5).requires_grad_() for _ in range(3))
    u, skip = torch.randn(3, 4, 60, generator=g), torch.randn(4, generator=g)
    made = companion_spectrum(a, b, c, 60, skip=skip)
    assert isinstance(made, FilterSpectrum)
    assert torch.equal(made.k, companion_kernel(a, b, c, 60))
    y = fftconv(u, made, skip=skip)
    assert torch.allclose(y, fftconv(u, companion_kernel(a, b, c, 60), skip=skip), atol=1e-6)
    assert all(x is not None for x in torch.autograd.grad(y.sum(), (a, b, c)))


def test_what_it_refuses():
    a = torch.ones(2, 3, 4)
    with pytest.raises(ShapeError, match=r"leading dimensions \(2, 3\); needed: one"):
        companion_spectrum(a, a, a, 5)
    with pytest.raises(ShapeError, match="skip for 5 channels, 3 systems"):
        companion_spectrum(a[0], a[0], a[0], 5, skip=torch.ones(5))
    with pytest.raises(KernelUnavailable, match="the tensors are on cpu; take impl='auto'"):
        companion_kernel(a, a, a, 5, impl="cuda")
