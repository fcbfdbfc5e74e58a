"""A spline reproduces polynomials, converges, differentiates and integrates, whatever its partition and ends."""

import inspect
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farfield.core_ops.errors import DomainError, DtypeError, KernelUnavailable, ShapeError
from farfield.core_ops.spline_collocation import SplineCollocation, direct
from farfield.core_ops.spline_collocation.cell import ORDERS, gauss
from farfield.core_ops.spline_collocation.reference import spline_collocation_reference
from tests.core_ops.spline_collocation.samples import ENDS, data_of, inside, normal, partition, polynomial, relative


@pytest.mark.parametrize("order", ORDERS)
def test_slopes_of_the_gauss_cell_are_integers(order: int) -> None:
    d = gauss(order).derivative
    assert d[order, order].item() == pytest.approx(order**2 - order + 1, rel=1e-13)
    assert d[0, 0].item() == pytest.approx(-(order**2 - order + 1), rel=1e-13)
    assert d[order, 0].item() == pytest.approx((-1) ** order, rel=1e-12)
    assert d[0, order].item() == pytest.approx(-((-1) ** order), rel=1e-12)


@pytest.mark.parametrize("impl", ["operator", "torch"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_polynomials_are_reproduced_on_any_partition(ends: str | tuple[str, str], order: int, impl: str) -> None:
    knots = partition(5, seed=order)
    spline = SplineCollocation(knots, order, ends=ends)
    c = normal(order + 1)
    data, x = data_of(spline, c), inside(knots, 61)
    for derivative in (0, 1, 2):
        bound = 1e-13 * (1, 20, 400)[derivative] * order**derivative
        assert relative(spline(data, x, derivative, impl=impl), polynomial(c, x, derivative)) < bound
    antiderivative = torch.cat([c.new_zeros(1), c / torch.arange(1, order + 2)])
    coeffs = spline.fit(data)
    a, b = x[:20], x[20:40]
    expected = polynomial(antiderivative, b) - polynomial(antiderivative, a)
    assert relative(spline.integrate(coeffs, a, b), expected) < 1e-13
    whole = polynomial(antiderivative, knots[-1]) - polynomial(antiderivative, knots[0])
    assert relative(spline.integrate(coeffs), whole) < 1e-12


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ends", [*ENDS, ("free", "neumann"), ("neumann", "dirichlet")], ids=str)
def test_polynomials_are_reproduced_on_one_cell(ends: str | tuple[str, str], order: int) -> None:
    knots = partition(3, 2)
    spline = SplineCollocation(knots, order, ends=ends)
    # A free end has r - 1 points.
    c = normal(order - 1 if "free" in (spline.ends.left, spline.ends.right) else order + 1)
    data, x = data_of(spline, c), inside(knots, 9)
    for d in (data, data.clone().requires_grad_()):
        assert relative(spline(d, x).detach(), polynomial(c, x)) < 1e-12


@pytest.mark.parametrize(("cells", "order"), [(1, 2), (1, 5), (2, 3), (7, 2), (5, 4), (3, 8)])
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_values_equal_the_dense_definition(cells: int, order: int, derivative: int) -> None:
    knots = partition(cells + 1, seed=3)
    spline = SplineCollocation(knots, order)
    data, x = normal(2, spline.size), torch.cat([inside(knots, 33), knots])
    expected = spline_collocation_reference(
        knots, spline.points, data[:, 1:-1].T, data[:, 0], data[:, -1], x, order, derivative
    ).T
    for impl in ("operator", "torch"):
        # The dense system in local powers loses four digits at order 8.
        assert relative(spline(data, x, derivative, impl=impl), expected) < 1e-10


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("ends", ["dirichlet", "neumann", "free", "periodic"])
def test_errors_fall_with_the_power_of_the_width(ends: str, order: int) -> None:
    errors = []
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for cells in (16, 32):
        spline = SplineCollocation(torch.linspace(0, 1, cells + 1, dtype=torch.float64), order, ends=ends)
        data = torch.sin(2 * math.pi * spline.nodes + 0.3)
        if ends == "neumann":
            slopes = 2 * math.pi * torch.cos(2 * math.pi * spline.nodes + 0.3)
            data = torch.cat([slopes[:1], data[1:-1], slopes[-1:]])
        errors.append((spline(data, x) - torch.sin(2 * math.pi * x + 0.3)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.4)


@pytest.mark.parametrize("cells", [1, 2, 3, 9])
@pytest.mark.parametrize("order", [2, 3, 6])
def test_periodic_splines_are_smooth_across_the_seam_and_wrap_queries(cells: int, order: int) -> None:
    knots = partition(cells + 1, seed=5)
    spline = SplineCollocation(knots, order, ends="periodic")
    coeffs = spline.fit(normal(spline.size))
    length = knots[-1] - knots[0]
    near = torch.stack([knots[0], knots[-1] - 1e-12 * length])
    for derivative in (0, 1):
        a, b = spline.evaluate(coeffs, near, derivative)
        assert abs(a - b) < 1e-7 * (1 + abs(a))
    x = inside(knots, 9)
    assert relative(spline.evaluate(coeffs, x - 3 * length), spline.evaluate(coeffs, x)) < 1e-10


def test_float32_at_64_intervals_of_order_5_loses_less_than_5e7() -> None:
    x = torch.linspace(0, 1, 4001)
    wide = SplineCollocation(torch.linspace(0, 1, 65, dtype=torch.float64), 5)
    spline = SplineCollocation(torch.linspace(0, 1, 65), 5)
    data = torch.sin(3 * math.pi * wide.nodes).float()
    for impl in ("operator", "torch"):
        error = (spline(data, x, impl=impl).double() - torch.sin(3 * math.pi * x.double())).abs().max()
        assert 0 < error < 5e-7


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_lebesgue_constant_stays_below_three_on_any_graded_partition(order: int) -> None:
    widths = [torch.ones(9), 10.0 ** torch.arange(5), torch.tensor([1.0, 10.0] * 4), 1e4 ** torch.rand(3, 12)]
    widths += [0.05 + 0.95 * torch.rand(5, 12, generator=torch.Generator().manual_seed(0))]
    for w in widths[: 3 if order < 3 else 5]:
        knots = torch.nn.functional.pad(w.double().cumsum(-1), (1, 0))
        for ends in ("dirichlet", "neumann", "periodic"):
            assert 1 <= SplineCollocation(knots, order, ends=ends).lebesgue().max() <= 3


@pytest.mark.parametrize("ends", ["dirichlet", "neumann", "free", "periodic"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_of_values_ends_queries_and_knots(ends: str, per_sample: bool) -> None:
    knots = partition(*((2, 4) if per_sample else (4,))).requires_grad_()
    x = inside(knots.detach(), 4).requires_grad_()
    size = SplineCollocation(knots, 3, ends=ends).size
    data = normal(2, size).requires_grad_()

    def interpolate(knots: Tensor, data: Tensor, x: Tensor, derivative: int) -> Tensor:
        return SplineCollocation(knots, 3, ends=ends)(data, x, derivative)

    def integral(knots: Tensor, data: Tensor, x: Tensor) -> Tensor:
        spline = SplineCollocation(knots, 3, ends=ends)
        return spline.integrate(spline.fit(data), x[..., :2], x[..., 2:])

    for derivative in (0, 1, 2):
        assert torch.autograd.gradcheck(
            lambda k, d, q, n=derivative: interpolate(k, d, q, n), (knots, data, x), fast_mode=derivative > 0
        )
    assert torch.autograd.gradcheck(integral, (knots, data, x), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda k, d, q: interpolate(k, d, q, 0), (knots, data, x), fast_mode=True)


def test_gradients_through_the_fixed_operator() -> None:
    spline = SplineCollocation(partition(6), 4)
    data, x = normal(3, spline.size).requires_grad_(), inside(spline.knots, 5)
    assert torch.autograd.gradcheck(lambda d: spline(d, x, impl="operator"), data)
    assert torch.autograd.gradcheck(lambda d: spline.evaluate(spline.fit(d), x), data)


def test_gradients_of_moved_points() -> None:
    knots = partition(4).requires_grad_()
    points = (SplineCollocation(knots.detach(), 3).points + 0.01 * torch.arange(6) % 3 * 0.02).requires_grad_()
    data, x = normal(8).requires_grad_(), inside(knots.detach(), 4)
    assert torch.autograd.gradcheck(lambda k, p, d: SplineCollocation(k, 3, points=p)(d, x), (knots, points, data))
    batch = torch.stack([points.detach(), points.detach() + 0.003])
    both = SplineCollocation(knots.detach(), 3, points=batch)(torch.stack([data, data]), x)
    alone = SplineCollocation(knots.detach(), 3, points=batch[1])(data, x)
    assert relative(both[1], alone) < 1e-14


def test_every_series_has_its_own_partition_and_queries() -> None:
    knots = partition(3, 2, 8)
    spline = SplineCollocation(knots, 4)
    data, x = normal(3, 2, spline.size), inside(knots, 7)
    together = spline(data, x)
    for i, j in itertools.product(range(3), range(2)):
        alone = SplineCollocation(knots[i, j], 4)
        assert relative(together[i, j], alone(data[i, j], x[i, j])) < 1e-14
        assert relative(spline.lebesgue()[i, j], alone.lebesgue()) < 1e-12
    # One vector of data, or of queries, serves all partitions.
    assert relative(spline(data[0, 0], x)[1, 1], SplineCollocation(knots[1, 1], 4)(data[0, 0], x[1, 1])) < 1e-14
    shared = torch.linspace(float(knots[..., 0].max()), float(knots[..., -1].min()), 5, dtype=torch.float64)
    for q in (shared, shared.flip(0), shared[[3, 0, 4, 0]]):
        assert relative(spline(data, q)[2, 1], SplineCollocation(knots[2, 1], 4)(data[2, 1], q)) < 1e-14
    grads = spline.operator(shared) @ data[..., None]
    assert relative(grads[..., 0], spline(data, shared)) < 1e-13


def test_mixed_dtypes_are_computed_in_the_wider_one() -> None:
    knots = partition(3, 6)
    spline = SplineCollocation(knots, 3)
    data, x = normal(3, spline.size).float(), inside(knots, 9)
    y = spline(data, x)
    assert y.dtype == torch.float32
    assert relative(y.double(), spline(data.double(), x)) < 1e-7
    assert spline.fit(data).dtype == torch.float32


def test_no_queries_and_no_series_give_nothing() -> None:
    spline = SplineCollocation(partition(3, 6), 3)
    assert spline(normal(3, spline.size), torch.empty(3, 0, dtype=torch.float64)).shape == (3, 0)
    assert spline(normal(3, spline.size), torch.empty(0, dtype=torch.float64)).shape == (3, 0)
    assert SplineCollocation(partition(3, 6)[:0], 3)(normal(0, 12), normal(0, 5)).shape == (0, 5)


def test_forward_mode_derivatives_of_evaluation() -> None:
    spline = SplineCollocation(partition(3, 6), 3)
    coeffs, x = spline.fit(normal(3, spline.size)), inside(spline.knots, 7)
    with torch.autograd.forward_ad.dual_level():
        y = spline.evaluate(coeffs, torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        slope = torch.autograd.forward_ad.unpack_dual(y).tangent
    assert slope is not None
    assert relative(slope, spline.evaluate(coeffs, x, 1)) < 1e-12


def test_pieces_equal_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    spline = SplineCollocation(partition(7, 5), 3)
    data, x = normal(7, spline.size), inside(spline.knots, 11)
    whole, coeffs = spline(data, x), spline.fit(data)
    monkeypatch.setattr(direct, "PIECE", 25)
    assert torch.equal(spline(data, x), whole)
    assert torch.equal(spline(data[:1], x[:, :3], 1), spline(data[:1].expand(7, -1), x[:, :3], 1))
    monkeypatch.setattr(direct, "TABLE", 100)
    monkeypatch.setattr(direct, "SERIES", 2)
    assert torch.equal(spline(data, x), whole)
    assert torch.equal(spline.fit(data), coeffs)
    assert torch.equal(spline.evaluate(coeffs, x), whole)


def test_operator_is_cached_until_its_queries_change() -> None:
    spline = SplineCollocation(partition(5), 3)
    x = inside(spline.knots, 6)
    first = spline.operator(x)
    assert spline.operator(x) is first
    assert spline.operator(x.clone()) is first
    assert spline.operator(x, 1) is not first
    x[0] = spline.knots[0]
    assert spline.operator(x) is not first
    assert relative(spline.operator(x)[0, 0], torch.ones((), dtype=torch.float64)) < 1e-14
    for _ in range(30):
        spline.operator(torch.rand(3, dtype=torch.float64) * 0.1)
    assert len(spline._operators) <= 8


def test_the_last_queries_are_known_until_they_change_or_need_a_gradient() -> None:
    spline = SplineCollocation(partition(5), 3)
    x, data = inside(spline.knots, 6), normal(2, spline.size)
    first = spline(data, x)
    assert torch.equal(spline(data, x), first)
    assert torch.equal(spline(data, x.clone()), first)
    assert spline(data.float(), x).dtype == torch.float32
    assert len(spline._operators) == 2
    assert relative(spline(data, x, impl="torch"), first) < 1e-13
    leaf = x.requires_grad_()
    (slope,) = torch.autograd.grad(spline(data, leaf).sum(), leaf)
    assert relative(slope, spline(data, leaf.detach(), 1).sum(0)) < 1e-12
    with torch.no_grad():
        x[0] = spline.knots[0]
        x.requires_grad_(False)
    assert relative(spline(data, x)[:, 0], data[:, 0]) < 1e-13


def test_large_problems_do_not_build_an_operator() -> None:
    knots = torch.linspace(0, 1, 2001, dtype=torch.float64)
    spline = SplineCollocation(knots, 3)
    x = torch.linspace(0, 1, 501, dtype=torch.float64)
    error = spline(torch.sin(9 * spline.nodes), x) - torch.sin(9 * x)
    assert error.abs().max() < 1e-12
    assert not spline._operators
    assert not spline._inverse
    with pytest.raises(KernelUnavailable, match="too large"):
        spline(torch.sin(9 * spline.nodes), x, impl="operator")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_data_are_computed_in_float32(dtype: torch.dtype) -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 9), 3)
    data, x = torch.sin(spline.nodes).to(dtype), torch.rand(20)
    assert torch.equal(spline(data, x), spline(data.float(), x).to(dtype))


def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests check annotations at each call; a user's call goes straight to the function's own checks.
    for name in ("__init__", "fit", "evaluate", "integrate", "__call__"):
        monkeypatch.setattr(SplineCollocation, name, inspect.unwrap(getattr(SplineCollocation, name)))


def test_compiles_whole() -> None:
    """In a process of its own: the checks of shapes that tests run under cannot be compiled."""
    root = Path(__file__).parents[3]
    script = Path(__file__).with_name("compiled.py")
    paths = os.pathsep.join([str(root / ".typing"), str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "4 compiled" in done.stdout


GOOD = torch.linspace(0, 1, 5)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: SplineCollocation([0.0, 0.5, 0.4, 1.0]), DomainError, "knots 1 and 2 are 0.5 and 0.4"),
        (lambda: SplineCollocation([0.0, 0.5, 0.5, 1.0]), DomainError, "drop duplicates"),
        (lambda: SplineCollocation([0.0, math.nan, 1.0]), DomainError, "finite"),
        (lambda: SplineCollocation(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), DomainError, "1 and 0"),
        (lambda: SplineCollocation([0.0]), ShapeError, "N \\+ 1"),
        (lambda: SplineCollocation(torch.tensor([0, 1])), DtypeError, "int64"),
        (lambda: SplineCollocation(GOOD, 1), ShapeError, "2 to 8"),
        (lambda: SplineCollocation(GOOD, 9), ShapeError, "2 to 8"),
        (lambda: SplineCollocation(GOOD, 3, ends="natural"), ShapeError, "natural"),
        (lambda: SplineCollocation(GOOD, 3, ends=("periodic", "free")), ShapeError, "periodic"),
        (lambda: SplineCollocation(GOOD, 3, points=torch.rand(3)), ShapeError, "2 for each of 4"),
        (lambda: SplineCollocation(GOOD, 3, points=torch.linspace(0, 1, 8)), DomainError, "strictly inside"),
        (lambda: SplineCollocation(GOOD, 3).fit(torch.ones(9)), ShapeError, "10"),
        (lambda: SplineCollocation(GOOD, 3).fit(torch.ones(10).long()), DtypeError, "int64"),
        (lambda: SplineCollocation(GOOD, 3).fit(torch.full((2, 10), math.nan)), DomainError, r"20 entries.*\(0, 0\)"),
        (lambda: SplineCollocation(GOOD, 3)(torch.full((10,), math.inf), GOOD), DomainError, "infinite"),
        (lambda: SplineCollocation(GOOD, 3)(torch.ones(10), GOOD + 0.1), DomainError, r"\[0.1, 1.1\].*\[0, 1\]"),
        (lambda: SplineCollocation(GOOD, 3)(torch.ones(10), GOOD * math.nan), DomainError, "NaN"),
        (lambda: SplineCollocation(GOOD[None], 3)(torch.ones(1, 10), GOOD - 1), DomainError, "domain"),
        (lambda: SplineCollocation(GOOD, 3, ends="periodic")(torch.ones(8), GOOD * math.nan), DomainError, "NaN"),
        (lambda: SplineCollocation(GOOD, 3).evaluate(torch.ones(12), GOOD), ShapeError, "13"),
        (lambda: SplineCollocation(GOOD, 3).evaluate(torch.ones(13), GOOD, 3), ShapeError, "0, 1, 2"),
        (lambda: SplineCollocation(GOOD, 3).evaluate(torch.ones(13), GOOD[0]), ShapeError, "scalar"),
        (lambda: SplineCollocation(GOOD, 3).integrate(torch.ones(13), GOOD), ShapeError, "both"),
        (lambda: SplineCollocation(GOOD, 3).integrate(torch.ones(13), GOOD, GOOD + 1), DomainError, "domain"),
        (lambda: SplineCollocation(GOOD, 3)(torch.ones(10), GOOD, impl="numba"), KernelUnavailable, "known"),
        (lambda: SplineCollocation(GOOD, 3)(torch.ones(10), GOOD[None], impl="operator"), KernelUnavailable, "queries"),
    ],
)
def test_mistakes_are_told(call: object, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _unchecked(monkeypatch)
    with pytest.raises(error, match=text):
        call()  # type: ignore[operator]


def test_rounding_of_a_query_at_the_end_is_let_through() -> None:
    spline = SplineCollocation([0.0, 0.05, 0.1], 3)
    x = torch.tensor([0.1], dtype=torch.float32)
    assert x.double() > spline.knots[-1]
    assert relative(spline(spline.nodes, x), torch.tensor([0.1], dtype=torch.float64)) < 1e-6


def test_without_checks_values_pass_unseen() -> None:
    spline = SplineCollocation(GOOD, 3, check=False)
    assert spline(torch.full((10,), math.nan), GOOD).isnan().all()


def test_stencils_are_rows_of_the_operator_on_coefficients() -> None:
    knots = torch.tensor([-1.0, -0.999, 0.2, 0.25, 3.0], dtype=torch.float64)
    for order in (2, 3, 8):
        spline = SplineCollocation(knots, order)
        data = torch.randn(5, spline.size, dtype=torch.float64)
        x = torch.cat([knots, -1 + 4 * torch.rand(200, dtype=torch.float64)])
        for derivative in (0, 1, 2):
            first, weights = spline.stencil(x, derivative)
            found = (spline.fit(data)[:, first[:, None] + torch.arange(order + 1)] * weights).sum(-1)
            expected = spline(data, x, derivative)
            assert (found - expected).norm() < 1e-11 * expected.norm()
    with pytest.raises(DomainError):
        spline.stencil(torch.tensor([3.1], dtype=torch.float64))
    with pytest.raises(ShapeError):
        SplineCollocation(knots.expand(2, 5), 3).stencil(x)


def test_queries_written_to_in_place_are_looked_at_again() -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 5), 3)
    data, x = torch.randn(spline.size), torch.linspace(0, 1, 4)
    before = spline(data, x)
    x[1] = 0.9
    assert not torch.equal(spline(data, x), before)
    x[1] = 1.5
    with pytest.raises(DomainError):
        spline(data, x)


def test_inference_mode_needs_no_version_counters() -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 5), 3)
    with torch.inference_mode():
        data, x = torch.ones(spline.size), torch.linspace(0, 1, 4)
        assert torch.allclose(spline(data, x), torch.ones(4))
        x[1] = 1.5
        with pytest.raises(DomainError):
            spline(data, x)
