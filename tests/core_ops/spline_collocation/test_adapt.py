"""Knots that share a monitor evenly cut the error of a layer, and stay graded."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from farfield.core_ops.errors import DomainError, ShapeError
from farfield.core_ops.spline_collocation import SplineCollocation, adapt, curvature, equidistribute, indicator_density

FINE = torch.linspace(0, 1, 1025, dtype=torch.float64)
X = torch.linspace(0, 1, 20001, dtype=torch.float64)


def _layer(x: Tensor) -> Tensor:
    return torch.tanh(60 * (x - 0.3))


def _error(knots: Tensor) -> float:
    spline = SplineCollocation(knots, 3)
    return (spline(_layer(spline.nodes), X) - _layer(X)).abs().max().item()


@pytest.mark.parametrize("cells", [8, 16, 32])
def test_adapted_knots_cut_the_error_of_a_layer_a_hundred_times(cells: int) -> None:
    fine = SplineCollocation(FINE, 3)
    density = curvature(fine, fine.fit(_layer(fine.nodes)))
    knots = equidistribute(FINE, density, cells)
    assert knots.shape == (cells + 1,)
    even = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    assert _error(even) > 100 * _error(knots)
    spline = SplineCollocation(knots, 3)
    assert spline.lebesgue() < 3
    ratio = spline.knots.diff()[1:] / spline.knots.diff()[:-1]
    assert ratio.log().abs().max() <= math.log(10)


def test_the_spread_of_an_ensemble_and_a_residual_drive_knots_too() -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 65, dtype=torch.float64), 3)
    members = torch.stack([_layer(spline.points + 0.002 * k) for k in range(-2, 3)])
    spread = members.std(0).unflatten(-1, (64, 2)).amax(-1)
    knots = equidistribute(spline.knots, indicator_density(spline.knots, spread, 3), 16)
    assert _error(torch.linspace(0, 1, 17, dtype=torch.float64)) > 20 * _error(knots)


def test_curvature_of_a_power_is_its_derivative() -> None:
    spline = SplineCollocation(torch.linspace(0, 2, 41, dtype=torch.float64), 3)
    density = curvature(spline, spline.fit(spline.nodes**4))
    # Its ends disturb it, less by rho_3 = 0.072 in every cell.
    assert (density - 24**0.25)[6:-6].abs().max() < 1e-7


def test_shares_are_equal_where_no_bound_binds() -> None:
    density = 1 + 0.3 * torch.sin(9 * (FINE[1:] + FINE[:-1]) / 2)
    knots = equidistribute(FINE, density, 7)
    mass = torch.nn.functional.pad((density * FINE.diff()).cumsum(-1), (1, 0))
    at = torch.searchsorted(FINE[1:-1].contiguous(), knots, right=True)
    shares = (mass[at] + density[at] * (knots - FINE[at])).diff()
    assert (shares - mass[-1] / 7).abs().max() < 1e-12
    assert torch.equal(
        equidistribute(FINE, torch.zeros(1024, dtype=torch.float64), 4), torch.linspace(0, 1, 5).double()
    )


@pytest.mark.parametrize("ratio", [2.0, 10.0])
def test_neighbouring_cells_keep_the_ratio_beside_a_spike(ratio: float) -> None:
    density = torch.ones(3, 1024, dtype=torch.float64)
    density[0, 500:520], density[1, :9], density[2, ::300] = 30, 50, 20
    knots = equidistribute(FINE, density, 40, floor=0.01, ratio=ratio)
    steps = (knots.diff()[:, 1:] / knots.diff()[:, :-1]).log().abs()
    # The density's own cells are half as wide as the narrowest new ones: their steps show.
    assert steps.max() <= 1.5 * math.log(ratio)
    assert steps.max() > 0.1


def test_gradients_of_knots_by_density() -> None:
    knots = torch.linspace(0, 1, 7, dtype=torch.float64)
    density = torch.tensor([[1.0, 2.0, 5.0, 2.5, 1.2, 0.9], [3.0, 1.0, 1.1, 0.8, 2.0, 4.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda k, d: equidistribute(k, d, 4), (knots.requires_grad_(), density.requires_grad_())
    )


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: equidistribute(FINE, FINE), ShapeError, "1024"),
        (lambda: equidistribute(FINE, -FINE[1:]), DomainError, "negative"),
        (lambda: equidistribute(FINE, FINE[1:] * math.nan), DomainError, "NaN"),
        (lambda: equidistribute(FINE, FINE[1:], 0), ShapeError, "1 or more"),
        (lambda: equidistribute(FINE, FINE[1:], floor=0.0), DomainError, "floor"),
        (lambda: equidistribute(FINE, FINE[1:], ratio=1.0), DomainError, "ratio"),
        (lambda: equidistribute(FINE.flip(0), FINE[1:]), DomainError, "Sort"),
        (lambda: indicator_density(FINE, -FINE[1:], 3), DomainError, "negative"),
        (lambda: curvature(SplineCollocation(FINE[[0, -1]], 3), torch.ones(4)), ShapeError, "one cell"),
    ],
)
def test_mistakes_are_told(call: object, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for f in (equidistribute, indicator_density, curvature):
        monkeypatch.setitem(call.__globals__, f.__name__, inspect.unwrap(getattr(adapt, f.__name__)))  # type: ignore[attr-defined]
    with pytest.raises(error, match=text):
        call()  # type: ignore[operator]
