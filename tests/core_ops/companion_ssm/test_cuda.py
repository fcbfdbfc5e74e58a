"""The CUDA recurrence against float64 on a CPU, its spectra against those of fftconv; skipped without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.core_ops import FilterSpectrum, fftconv
from farfield.core_ops.companion_ssm import companion_kernel, companion_scan, companion_spectrum
from farfield.core_ops.companion_ssm.custom import all_pole, companion_taps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SHAPES = [(1, 1), (1, 40), (5, 3), (7, 97), (70, 130), (64, 720), (300, 1000), (1100, 1500)]


def system(kind: str, d: int, dtype: torch.dtype = torch.float64, rows: int = 3) -> list[Tensor]:
    """a, b, c on a CPU: of norm 1, with all poles on the unit circle, with a double one there, or unstable."""
    g = torch.Generator().manual_seed(d)
    a, b, c = (torch.randn(rows, d, generator=g, dtype=torch.float64) for _ in range(3))
    a = a / a.abs().sum(-1, keepdim=True)
    if kind == "seasons":
        a = torch.eye(1, d, dtype=torch.float64).repeat(rows, 1)
    elif kind == "double pole" and d > 1:
        a = torch.zeros_like(a)
        a[:, -1], a[:, -2] = 2, -1
    elif kind == "unstable":
        a = a * 1.01
    return [x.to(dtype) for x in (a, b, c)]


def recurred(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """k[l] = c^T A^l b by s[t] = c^T A^t e_1, which begins with c, and k[l] = sum_i b[i] s[l + i], in long double."""
    rows = []
    for one in zip(a.numpy(), b.numpy(), c.numpy(), strict=True):
        p, q, start = (x.astype(np.longdouble) for x in one)
        s = np.concatenate([start, np.zeros(length, np.longdouble)])
        for t in range(len(p), len(s)):
            s[t] = p @ s[t - len(p) : t]
        rows.append(np.correlate(s[:-1], q, "valid").astype(np.float64))
    return torch.from_numpy(np.stack(rows))


def close(y: Tensor, expected: Tensor, bound: float) -> None:
    """Each row, relative to its largest entry; NaN where nothing was written would fail."""
    largest = expected.double().abs().amax(-1)
    assert (largest > 0).all()
    assert ((y.cpu().double() - expected.double()).abs().amax(-1) <= bound * largest).all()


def on_gpu(*tensors: Tensor) -> list[Tensor]:
    return [x.cuda() for x in tensors]


@pytest.mark.parametrize("kind", ["norm 1", "seasons", "double pole", "unstable"])
@pytest.mark.parametrize(("d", "length"), SHAPES)
def test_taps_are_exact(d: int, length: int, kind: str) -> None:
    wide = system(kind, d)
    bound = 1e-10 if kind == "double pole" else 1e-12
    close(companion_kernel(*on_gpu(*wide), length, impl="cuda"), recurred(*wide, length), bound)
    single = [x.float() for x in wide]
    y = companion_kernel(*on_gpu(*single), length, impl="cuda")
    assert y.dtype == torch.float32
    close(y, recurred(*(x.double() for x in single), length), 1.2e-7)


@pytest.mark.parametrize("terms", [1, 50, 1000])
@pytest.mark.parametrize(("d", "length"), SHAPES)
def test_quotients_are_exact(d: int, length: int, terms: int) -> None:
    a, x, _ = system("norm 1", d)
    x = torch.randn(3, min(terms, length), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = x, a.flip(1), length, False
    close(all_pole(*on_gpu(*given[:2]), *given[2:], "cuda"), all_pole(*given, "series"), 1e-12)


@pytest.mark.parametrize(("d", "length"), [(5, 1), (7, 100), (64, 300), (33, 512), (64, 720), (64, 3000), (20, 8192)])
def test_spectra_are_those_of_the_taps(d: int, length: int) -> None:
    a, b, c = on_gpu(*system("seasons", d, torch.float32))
    u, skip = torch.randn(2, 6, length, device="cuda"), torch.randn(6, device="cuda")
    for s in (None, skip):
        made = companion_spectrum(a, b, c, length, skip=s, impl="cuda")
        k = companion_kernel(a, b, c, length, impl="cuda")
        assert torch.equal(made.k, k)
        v = u if s is not None else u[:, :3]
        ((radices, (spectrum,)),) = next(iter(made.kept.values())).items()
        y, again = fftconv(v, made, skip=s), FilterSpectrum(k)
        close(y.flatten(0, 1), fftconv(v, again, skip=s).flatten(0, 1).cpu(), 1e-6)
        assert [x.data_ptr() for x in next(iter(made.kept.values()))[radices]] == [spectrum.data_ptr()]
        (expected,) = next(iter(again.kept.values()))[radices]
        assert (spectrum - expected).norm() <= 1e-6 * expected.norm()


def test_long_lengths_and_gradients_take_the_taps() -> None:
    a, b, c = on_gpu(*system("norm 1", 8, torch.float32))
    made = companion_spectrum(a, b, c, 20000)
    assert not made.kept
    u = torch.randn(1, 3, 20000, device="cuda")
    close(fftconv(u, made)[0], fftconv(u, made.k)[0].cpu(), 1e-5)
    leaves = [x.requires_grad_() for x in (a, b, c)]
    learnt = companion_spectrum(*leaves, 300)
    y = fftconv(u[..., :300], learnt).square().sum()
    expected = fftconv(u[..., :300], companion_kernel(*leaves, 300, impl="series")).square().sum()
    for g, e in zip(torch.autograd.grad(y, leaves), torch.autograd.grad(expected, leaves), strict=True):
        close(g, e.cpu(), 1e-4)


def test_a_scan_reads_the_spectrum_in_inference_mode_and_in_a_graph() -> None:
    a, b, c = on_gpu(*system("norm 1", 16, torch.float32))
    u, skip = torch.randn(2, 3, 500, device="cuda"), torch.randn(3, device="cuda")
    with torch.no_grad():
        expected = companion_scan(u.double(), a.double(), b.double(), c.double(), skip.double(), form="step")
        close(companion_scan(u, a, b, c, skip).flatten(0, 1), expected.flatten(0, 1).cpu(), 2e-6)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = companion_scan(u, a, b, c, skip)
        captured.fill_(float("nan"))
        graph.replay()
        close(captured.flatten(0, 1), expected.flatten(0, 1).cpu(), 2e-6)
    with torch.inference_mode():
        close(companion_scan(u, a, b, c, skip).flatten(0, 1), expected.flatten(0, 1).cpu(), 2e-6)


def test_gradients_are_those_of_the_series_and_operators_pass_opcheck() -> None:
    leaves = [x.requires_grad_() for x in on_gpu(*system("norm 1", 20))]
    w = torch.linspace(-1, 1, 200, dtype=torch.float64, device="cuda")
    ours, theirs = (
        torch.autograd.grad((companion_kernel(*leaves, 200, impl=impl) * w).sum(), leaves)
        for impl in ("cuda", "series")
    )
    for g, e in zip(ours, theirs, strict=True):
        close(g, e.cpu(), 1e-11)
    a, b, c = (x.detach() for x in leaves)
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(companion_taps, (a, b, c, 20, torch.float32, "cuda"), test_utils=utilities)
    torch.library.opcheck(all_pole, (a, b, 30, False, "cuda"), test_utils=utilities)


def test_strided_and_broadcast_operands() -> None:
    a, b, c = on_gpu(*system("norm 1", 12, torch.float32))
    expected = companion_kernel(a, b[:1].expand(3, 12), c, 60, impl="cuda")
    spread = torch.randn(12, 3, device="cuda").mT.copy_(c)
    assert torch.equal(companion_kernel(a, b[0], spread, 60, impl="cuda"), expected)
    mixed = companion_kernel(a, b[:1].double(), c, 60, impl="cuda")
    assert mixed.dtype == torch.float64
    close(mixed, expected.cpu(), 2e-7)


def test_calls_compile_whole() -> None:
    # In a process of its own: the hook that checks shapes cannot be compiled.
    root, script = Path(__file__).resolve().parents[3], Path(__file__).with_name("compiled_cuda.py")
    path = os.pathsep.join([str(root / ".typing"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled"]
