"""The fused kernels equal the plain path, with gradients: on a GPU, or emulated on a CPU where g++ is there."""

import subprocess
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from farfield.core_ops.errors import KernelUnavailable
from farfield.core_ops.spline_collocation import SplineCollocation, fused
from farfield.core_ops.spline_collocation.kernel_cuda import Plan
from tests.core_ops.spline_collocation import emulated

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
# Relative L2 distance from the plain path.
BOUNDS = {torch.float64: 5e-15, torch.float32: 5e-7}
Case = tuple[int, int, int, int, str | tuple[str, str], int, torch.dtype]
# (series, cells, queries, order, ends, derivative, dtype)
CASES: list[Case] = [
    (3, 1, 5, 3, "dirichlet", 0, torch.float64),
    (3, 1, 5, 3, ("dirichlet", "neumann"), 0, torch.float64),
    (3, 1, 5, 4, ("free", "neumann"), 1, torch.float64),
    (3, 1, 5, 3, ("neumann", "free"), 0, torch.float64),
    (5, 16, 33, 3, "dirichlet", 0, torch.float64),
    (5, 7, 20, 2, "neumann", 0, torch.float64),
    (5, 7, 1, 5, ("free", "neumann"), 1, torch.float64),
    (4, 12, 30, 4, ("dirichlet", "neumann"), 2, torch.float64),
    (40, 5, 7, 8, ("neumann", "dirichlet"), 1, torch.float64),
    (3, 40, 70, 3, ("neumann", "free"), 0, torch.float64),
    (2, 256, 300, 6, "free", 2, torch.float64),
    (9, 16, 64, 3, "dirichlet", 0, torch.float32),
    (5, 64, 100, 5, "dirichlet", 0, torch.float32),
]
# Where there is a GPU the kernels run on it, and `-m gpu` takes these tests.
pytestmark = [pytest.mark.gpu] if GPU else []


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels run here."""
    if not GPU:
        if not emulated.available:
            pytest.skip("g++ is not installed: CUDA sources were NOT emulated")
        emulated.emulate(monkeypatch)


def relative(y: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; NaN where something was left unwritten."""
    assert y.shape == expected.shape
    return ((y - expected).norm() / expected.norm()).item()


def leaves(case: Case, shared: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data, knots, queries and a cotangent; own knots and queries, or shared ones."""
    series, cells, queries, order, ends, _, dtype = case
    g = torch.Generator().manual_seed(series)
    batch = () if shared else (series,)
    widths = 0.1 + torch.rand(*batch, cells, generator=g, dtype=torch.float64)
    knots = torch.nn.functional.pad(widths.cumsum(-1), (1, 0))
    size = SplineCollocation(knots, order, ends=ends).size
    data = torch.randn(series, size, generator=g, dtype=torch.float64)
    x = torch.rand(*batch, queries, generator=g, dtype=torch.float64)
    dy = torch.randn(series, queries, generator=g, dtype=torch.float64)
    knots = knots / knots[..., -1:]
    # Two queries stand on knots.
    x[..., : min(2, queries)] = knots[..., [0, -1]][..., :queries]
    return tuple(t.to(DEVICE, dtype).requires_grad_(t is not dy) for t in (data, knots, x, dy))  # type: ignore[return-value]


def spline_of(case: Case, knots: Tensor) -> SplineCollocation:
    """The spline of a case."""
    return SplineCollocation(knots, case[3], ends=case[4])


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"N{c[1]}r{c[3]}d{c[5]}")
def test_kernels_equal_the_plain_path(case: Case, shared: bool, kernels: None) -> None:
    *given, dy = leaves(case, shared)
    results = []
    for impl in ("cuda", "torch", "cuda"):
        y = spline_of(case, given[1])(given[0], given[2], case[5], impl=impl)
        results.append((y, *torch.autograd.grad(y, given, dy)))
    for got, want, again in zip(*results, strict=True):
        assert relative(got, want) < BOUNDS[case[6]]
        assert torch.equal(got, again)


@pytest.mark.parametrize(
    ("cells", "ends", "derivative"),
    [(6, ("neumann", "free"), 0)]
    + [pytest.param(n, e, d, marks=pytest.mark.gpu) for n in (1, 40) for e in ("dirichlet", "neumann") for d in (0, 1)],
)
def test_gradients_are_those_of_differences(
    cells: int, ends: str | tuple[str, str], derivative: int, kernels: None
) -> None:
    case: Case = (2, cells, 3, 3, ends, derivative, torch.float64)
    data, knots, _, _ = leaves(case, False)
    # Away from knots, where derivatives jump.
    inside = torch.tensor([0.3, 0.6, 0.45], dtype=torch.float64, device=DEVICE)
    with torch.no_grad():
        at = torch.tensor([0, cells // 2, cells - 1], device=DEVICE)
        x = knots[:, at] + knots.diff()[:, at] * inside

    def run(data: Tensor, knots: Tensor, x: Tensor) -> Tensor:
        return SplineCollocation(knots, 3, ends=ends, check=False)(data, x, derivative, impl="cuda")

    assert torch.autograd.gradcheck(run, (data, knots, x.requires_grad_()), eps=1e-6, atol=1e-5)


def test_no_series_and_no_queries(kernels: None) -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 5, device=DEVICE)[None].repeat(3, 1), 3)
    data = torch.randn(3, spline.size, device=DEVICE, requires_grad=True)
    y = spline(data, torch.empty(3, 0, device=DEVICE), impl="cuda")
    assert y.shape == (3, 0)
    assert torch.autograd.grad(y.sum(), data)[0].abs().max() == 0
    none = SplineCollocation(spline.knots[:0], 3)
    assert none(data[:0], torch.rand(0, 4, device=DEVICE), impl="cuda").shape == (0, 4)


@pytest.mark.parametrize("cells", [7, 70])
def test_nan_stays_in_its_series(cells: int, kernels: None) -> None:
    knots = torch.linspace(0, 1, cells + 1, device=DEVICE)[None].repeat(5, 1).requires_grad_()
    spline = SplineCollocation(knots, 3, check=False)
    data, x = torch.randn(5, spline.size, device=DEVICE), torch.rand(5, 40, device=DEVICE)
    data[1, 3] = torch.nan
    y = spline(data.requires_grad_(), x, impl="cuda")
    assert y[1].isnan().all()
    assert y[[0, 2, 3, 4]].isfinite().all()
    dy = torch.ones_like(y)
    dy[2, 0] = torch.nan
    d_data, d_knots = torch.autograd.grad(y, (data, knots), dy)
    assert d_data[2].isnan().all()
    assert d_knots[2].isnan().all()
    assert d_data[[0, 3, 4]].isfinite().all()
    assert d_knots[[0, 3, 4]].isfinite().all()


def test_the_operator_is_a_good_citizen(kernels: None) -> None:
    knots = torch.linspace(0, 1, 4, dtype=torch.float64, device=DEVICE)[None]
    full, x = (torch.rand(2, n, dtype=torch.float64, device=DEVICE) for n in (8, 3))
    options = (3, False, False, 0)
    torch.library.opcheck(fused.forward, (*(t.clone().requires_grad_() for t in (full, knots, x)), *options))
    y, v = fused.forward(full, knots, x, *options)
    torch.library.opcheck(fused.backward, (y, full, knots, x, v, *options))


@pytest.mark.gpu
def test_large_batches_are_written_whole() -> None:
    case: Case = (100_003, 16, 64, 3, "dirichlet", 0, torch.float32)
    *given, dy = leaves(case, False)
    got, want = (
        torch.autograd.grad(spline_of(case, given[1])(given[0], given[2], impl=i), given, dy) for i in ("cuda", "torch")
    )
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 1e-6
        assert ((a - b).norm(dim=-1) < 1e-5 * (1 + b.norm(dim=-1))).all()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "86", "89", "90a", "100", "120"])
def test_the_source_compiles(architecture: str, tmp_path: object) -> None:
    if not emulated.has_nvcc:
        pytest.skip("nvcc is not installed: CUDA sources were NOT compiled")
    plan = Plan(order=3, left=False, right=True, times=1, wide=False, cells=16)
    for backward, wide in ((False, False), (True, False), (True, True)):
        macros = [f"-D{name}={value}" for name, value in replace(plan, wide=wide).options(backward).items()]
        command = ["nvcc", "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-x", "cu", *macros]
        done = subprocess.run(
            [*command, "-o", f"{tmp_path}/out.cubin", str(emulated.SOURCE)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", [2, 5, 8])
@pytest.mark.parametrize("cells", [1, 8, 17, 64, 256])
@pytest.mark.parametrize("wide", [False, True])
def test_a_plan_fits(order: int, cells: int, wide: bool) -> None:
    plan = Plan(order=order, left=True, right=True, times=0, wide=wide, cells=cells)
    assert plan.lanes * plan.held >= cells + 1
    # 99 KB: what a block may take on every device.
    assert plan.warps_of(True) * plan.bytes(True) <= 99 << 10


@pytest.mark.parametrize("ends", ["periodic", "dirichlet"])
def test_what_has_no_kernel_is_told(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "absent", lambda device: None)
    spline = SplineCollocation(torch.linspace(0, 1, 1001, device=DEVICE), 3, ends=ends)
    with pytest.raises(KernelUnavailable, match="impl='torch'"):
        spline(torch.ones(spline.size, device=DEVICE), spline.knots[:3], impl="cuda")


@pytest.mark.skipif(GPU, reason="needs a machine without a GPU")
def test_without_a_gpu_the_kernel_says_so() -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 5), 3)
    with pytest.raises(KernelUnavailable, match="NVIDIA"):
        spline(torch.ones(10), spline.knots, impl="cuda")
