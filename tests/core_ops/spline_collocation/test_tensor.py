"""Tensor products reproduce polynomials in two and three dimensions, on grids and at scattered points."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from farfield.core_ops.errors import DomainError, ShapeError
from farfield.core_ops.spline_collocation import SplineCollocation, TensorCollocation


def _axis(
    cells: int, order: int, ends: str = "dirichlet", seed: int = 0, batch: tuple[int, ...] = ()
) -> SplineCollocation:
    g = torch.Generator().manual_seed(seed)
    widths = 0.2 + torch.rand(*batch, cells, generator=g, dtype=torch.float64)
    return SplineCollocation(torch.nn.functional.pad(widths.cumsum(-1), (1, 0)) - 0.4, order, ends=ends)


def _queries(axis: SplineCollocation, count: int) -> Tensor:
    u = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    return axis.knots[..., :1] + u * (axis.knots[..., -1:] - axis.knots[..., :1])


def _f(x: Tensor, y: Tensor, dx: int = 0, dy: int = 0) -> Tensor:
    """(x^2 - 3 x + 1)(2 y^3 - y) + y^2, of degree 2 and 3."""
    a = (x**2 - 3 * x + 1, 2 * x - 3, 2 + 0 * x)[dx]
    b = (2 * y**3 - y, 6 * y**2 - 1, 12 * y)[dy]
    c = 0 * x + (y**2, 2 * y, 2 + 0 * y)[dy] if dx == 0 else 0 * x * y
    return a * b + c


def _relative(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    return ((y - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("derivative", [(0, 0), (1, 0), (0, 2), (1, 1)])
def test_polynomials_on_grids_and_at_points(derivative: tuple[int, int]) -> None:
    x, y = _axis(3, 2), _axis(4, 5, "free", seed=1)
    field = TensorCollocation(x, y)
    data = _f(x.nodes[:, None], y.nodes[None])
    qx, qy = _queries(x, 7), _queries(y, 9)
    expected = _f(qx[:, None], qy[None], *derivative)
    coeffs = field.fit(data)
    assert coeffs.shape == (3 * 2 + 1, 4 * 5 + 1)
    assert _relative(field(data, qx, qy, derivative=derivative), expected) < 1e-12
    assert _relative(field.evaluate(coeffs, qx, qy, derivative=derivative), expected) < 1e-12
    points = torch.cartesian_prod(qx, qy)
    assert _relative(field.at(coeffs, points, derivative).reshape(7, 9), expected) < 1e-12
    many = field.at(torch.stack([coeffs, 2 * coeffs]), torch.stack([points, points.flip(0)]), derivative)
    assert _relative(many[1].flip(0).reshape(7, 9), 2 * expected) < 1e-12


def test_integral_of_a_polynomial() -> None:
    x, y = _axis(3, 3), _axis(2, 4, seed=1)
    field = TensorCollocation(x, y)
    coeffs = field.fit((x.nodes[:, None] ** 2) * (y.nodes[None] ** 3))
    (a, b), (c, d) = ((k[0], k[-1]) for k in (x.knots, y.knots))
    expected = (b**3 - a**3) / 3 * (d**4 - c**4) / 4
    assert _relative(field.integrate(coeffs), expected) < 1e-13


def test_three_dimensions_with_batches() -> None:
    axes = [_axis(2, 3), _axis(3, 2, "free", seed=1), _axis(2, 4, "periodic", seed=2)]
    field = TensorCollocation(*axes)
    x, y, z = field.nodes
    length = axes[2].knots[-1] - axes[2].knots[0]
    wave = 2 * math.pi / length

    def f(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (x[:, None, None] ** 3 - 1) * (y[:, None] ** 2 + y[:, None]) * (2 + 0 * torch.sin(wave * z))

    data = torch.stack([f(x, y, z), -f(x, y, z)])
    q = [_queries(a, n) for a, n in zip(axes, (4, 5, 6), strict=True)]
    expected = f(*q)
    coeffs = field.fit(data)
    assert _relative(field(data, *q)[1], -expected) < 1e-12
    assert _relative(field.evaluate(coeffs, *q)[0], expected) < 1e-12
    assert _relative(field.at(coeffs, torch.cartesian_prod(*q))[0].reshape(4, 5, 6), expected) < 1e-12
    total = field.integrate(coeffs)
    assert total.shape == (2,)
    assert _relative(total[0], -total[1]) < 1e-14
    assert field.lebesgue() == pytest.approx(math.prod(a.lebesgue().item() for a in axes))


def test_every_field_has_its_own_partition_of_an_axis() -> None:
    x, y = _axis(3, 3, batch=(2,)), _axis(4, 2, seed=1)
    field = TensorCollocation(x, y)
    data = torch.randn(2, *field.size, dtype=torch.float64)
    low, high = x.knots[:, 0].max(), x.knots[:, -1].min()
    qx = low + (high - low) * torch.rand(5, dtype=torch.float64)
    qy = _queries(y, 6)
    points = torch.stack([qx, qy[:5]], -1)
    coeffs = field.fit(data)
    for i in range(2):
        alone = TensorCollocation(SplineCollocation(x.knots[i], 3), y)
        assert _relative(field(data, qx, qy)[i], alone(data[i], qx, qy)) < 1e-13
        assert _relative(coeffs[i], alone.fit(data[i])) < 1e-13
        assert (
            _relative(field.evaluate(coeffs, qx, qy, derivative=(1, 0))[i], alone(data[i], qx, qy, derivative=(1, 0)))
            < 1e-12
        )
        assert _relative(field.at(coeffs, points, (1, 0))[i], alone.at(alone.fit(data[i]), points, (1, 0))) < 1e-12
        assert _relative(field.integrate(coeffs)[i], alone.integrate(alone.fit(data[i]))) < 1e-12


def test_gradients() -> None:
    knots = _axis(2, 3).knots.requires_grad_()
    y = _axis(2, 2, seed=1)
    data = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    points = torch.stack([_queries(_axis(2, 3), 3), _queries(y, 3)], -1).requires_grad_()

    def at(knots: Tensor, data: Tensor, points: Tensor) -> Tensor:
        field = TensorCollocation(SplineCollocation(knots, 3), y)
        return field.at(field.fit(data), points)

    assert torch.autograd.gradcheck(at, (knots, data, points))
    assert torch.autograd.gradgradcheck(at, (knots, data, points), fast_mode=True)
    qx, qy = points.detach().unbind(-1)
    assert torch.autograd.gradcheck(
        lambda k, d: TensorCollocation(SplineCollocation(k, 3), y)(d, qx, qy, derivative=(0, 1)), (knots, data)
    )


@pytest.mark.parametrize("orders", [(3, 3), (4, 3), (5, 6)])
def test_moved_points_reproduce_polynomials_and_points_that_stay_change_nothing(orders: tuple[int, int]) -> None:
    x, y = _axis(3, orders[0]), _axis(2, orders[1], seed=1)
    field = TensorCollocation(x, y)
    still = torch.stack(torch.meshgrid(x.nodes, y.nodes, indexing="ij"), -1)
    data = torch.randn(2, *field.size, dtype=torch.float64)
    assert _relative(field.fit_moved(still, data), field.fit(data)) < 1e-11
    moved = still.clone()
    shift = 0.02 * (torch.rand(*still[1:-1, 1:-1].shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    moved[1:-1, 1:-1] += shift
    coeffs = field.fit_moved(moved, _f(moved[..., 0], moved[..., 1]))
    qx, qy = _queries(x, 7), _queries(y, 8)
    assert _relative(field.evaluate(coeffs, qx, qy), _f(qx[:, None], qy[None])) < 1e-11


def test_moved_points_have_gradients() -> None:
    field = TensorCollocation(_axis(2, 3), _axis(1, 3, seed=1))
    still = torch.stack(torch.meshgrid(*field.nodes, indexing="ij"), -1)
    inner = still[1:-1, 1:-1].clone().requires_grad_()
    data = torch.randn(field.size, dtype=torch.float64).requires_grad_()

    def fit(inner: Tensor, data: Tensor) -> Tensor:
        rows = torch.cat([still[1:-1, :1], inner, still[1:-1, -1:]], 1)
        return field.fit_moved(torch.cat([still[:1], rows, still[-1:]]), data)

    assert torch.autograd.gradcheck(fit, (inner, data))


GOOD = SplineCollocation(torch.linspace(0, 1, 3), 3)
FIELD = TensorCollocation(GOOD, GOOD)
GRID = torch.stack(torch.meshgrid(*FIELD.nodes, indexing="ij"), -1)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: TensorCollocation(GOOD), ShapeError, "2 or 3"),
        (lambda: FIELD.fit(torch.ones(6, 5)), ShapeError, "6, 6"),
        (lambda: FIELD.fit(torch.full((6, 6), math.nan)), DomainError, "NaN"),
        (lambda: FIELD(torch.ones(6, 6), GOOD.knots), ShapeError, "2 of both"),
        (lambda: FIELD(torch.ones(6, 6), GOOD.knots, GOOD.knots + 1), DomainError, "domain"),
        (lambda: FIELD.at(torch.ones(7, 7), torch.ones(3, 3)), ShapeError, "P, 2"),
        (lambda: FIELD.at(torch.ones(7, 7), torch.full((1, 2), 1.5)), DomainError, "domain"),
        (lambda: FIELD.fit_moved(GRID + 0.2, torch.ones(6, 6)), DomainError, "outside of its cell"),
        (lambda: FIELD.fit_moved(GRID[:5], torch.ones(6, 6)), ShapeError, "needed"),
        (lambda: TensorCollocation(GOOD, GOOD, GOOD).fit_moved(GRID, torch.ones(6, 6)), ShapeError, "needed: 2"),
    ],
)
def test_mistakes_are_told(call: object, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "fit", "fit_moved", "at", "__call__"):
        monkeypatch.setattr(TensorCollocation, name, inspect.unwrap(getattr(TensorCollocation, name)))
    with pytest.raises(error, match=text):
        call()  # type: ignore[operator]
