"""Space and time maps on intervals, rectangles and boxes; closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.space import from_state
from farfield.apps.physics.times import TimeMap
from farfield.core_ops.errors import DomainError, DtypeError, ShapeError

KNOTS = ([0.0, 0.2, 0.5, 1.0], [-1.0, 0.7, 2.0], [0.0, 0.3, 0.5])


def cubic(p: Tensor) -> Tensor:
    """A cubic along every axis, two components."""
    one = (p**3).sum(-1) + p.prod(-1) - 2 * p[..., 0] ** 2 * p[..., -1]
    return torch.stack([one, p[..., 0] - 3 * p[..., -1]], -1)


def inside(d: int, count: int = 300) -> Tensor:
    """Random points of the domain."""
    low, high = (torch.tensor([k[i] for k in KNOTS[:d]], dtype=torch.float64) for i in (0, -1))
    return low + (high - low) * torch.rand(count, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("ends", ["dirichlet", "free"])
def test_cubics_are_exact_in_every_dimension(d: int, ends: str) -> None:
    space, p = Rectangle(KNOTS[:d], 3, ends), inside(d)
    values = cubic(space.nodes)
    assert (space.evaluate(values, p) - cubic(p)).abs().max() < 1e-12
    pieces = space.matrix(p) @ values
    assert (pieces - cubic(p)).abs().max() < 1e-12


def test_derivatives_up_to_the_second_are_exact() -> None:
    space, p = Rectangle(KNOTS[:2]), inside(2)
    x, y = p.unbind(1)
    values = cubic(space.nodes)
    expected = {(1, 0): 3 * x**2 + y - 4 * x * y, (0, 1): 3 * y**2 + x - 2 * x**2, (1, 1): 1 - 4 * x, (0, 2): 6 * y}
    for orders, want in expected.items():
        assert (space.evaluate(values, p, orders)[:, 0] - want).abs().max() < 1e-10
        found = space.stencil(p, orders)
        assert ((space.coefficients(values)[found.at, 0] * found.weights).sum(1) - want).abs().max() < 1e-10


def test_the_integral_is_exact() -> None:
    space = Rectangle(KNOTS[:2])
    found = space.integral() @ cubic(space.nodes)
    one = 3 * 0.25 + (16 - 1) / 4 + 0.5 * 1.5 - 2 / 3 * 1.5
    assert torch.allclose(found, torch.tensor([one, 0.5 * 3 - 3 * 1.5], dtype=torch.float64), atol=1e-12)


def test_values_are_differentiable_and_batched() -> None:
    space, p = Rectangle(KNOTS[:2]), inside(2, 7)
    values = torch.randn(2, 3, len(space.nodes), 2, dtype=torch.float64, requires_grad=True)
    out = space.evaluate(values, p)
    assert out.shape == (2, 3, 7, 2)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    assert torch.allclose(gradient[0, 0, :, 0], space.matrix(p).sum(0))
    assert space.evaluate(values.detach().float(), p).dtype == torch.float32


def test_many_points_take_another_way_to_the_same_values() -> None:
    space = Rectangle.uniform([0, 0], [1, 1], [6, 6])
    values = torch.randn(len(space.nodes), 2, dtype=torch.float64)
    p = torch.rand(100_000, 2, dtype=torch.float64)
    assert torch.allclose(space.evaluate(values, p)[:50], space.matrix(p[:50]) @ values, atol=1e-12)


def test_a_grid_is_a_product_of_its_axes() -> None:
    space = Rectangle(KNOTS[:2])
    x, y = torch.linspace(0, 1, 5), torch.linspace(-1, 2, 4)
    values = torch.randn(3, len(space.nodes), 2, dtype=torch.float64)
    points = torch.cartesian_prod(x.double(), y.double())
    assert torch.allclose(space.grid(values, x, y).reshape(3, 20, 2), space.evaluate(values, points), atol=1e-12)


def test_sides_hold_what_they_are_given() -> None:
    space = Rectangle(KNOTS[:2])
    values = torch.randn(len(space.nodes), 1, dtype=torch.float64)
    values[space.boundary["top"]] = 4.0
    x = torch.linspace(0, 1, 999, dtype=torch.float64)
    assert (space.evaluate(values, torch.stack([x, torch.full_like(x, 2.0)], 1)) - 4).abs().max() < 1e-12
    assert set(space.boundary) == {"left", "right", "bottom", "top"}


def test_an_axis_that_wraps_around_has_no_outside() -> None:
    space = Rectangle.uniform([0, 0], [1, 1], [16, 4], 5, ["periodic", "dirichlet"])
    values = torch.sin(2 * torch.pi * space.nodes[:, :1])
    p = torch.tensor([[-0.3, 0.2], [5.4, 1.0]], dtype=torch.float64)
    assert (space.evaluate(values, p)[:, 0] - torch.sin(2 * torch.pi * p[:, 0])).abs().max() < 1e-5
    assert set(space.boundary) == {"bottom", "top"}


def test_points_outside_are_refused_with_their_number() -> None:
    space = Rectangle(KNOTS[:2])
    p = torch.tensor([[0.5, 0.0], [1.5, 0.0], [float("nan"), 0.0]])
    assert space.contains(p).tolist() == [True, False, False]
    for ask in (space.check, space.stencil, space.matrix):
        with pytest.raises(DomainError, match=r"2 of 3 points .* number 1, at \(1.5, 0\), which spans \[0, 1\]"):
            ask(p)
    with pytest.raises(ShapeError, match=r"\(Q, 2\)"):
        space.check(p[:, :1])
    with pytest.raises(DtypeError):
        space.check(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="orders from 0 to 2"):
        space.stencil(p[:1], (3, 0))


def test_wrong_partitions_are_refused() -> None:
    with pytest.raises(ShapeError, match="1 to 3 axes"):
        Rectangle([[0, 1]] * 4)
    with pytest.raises(DomainError, match="increasing"):
        Rectangle([[0, 0.5, 0.5, 1]])
    with pytest.raises(ShapeError, match="ends"):
        Rectangle([[0, 1]], 3, "neumann")


def test_a_map_comes_back_from_its_state() -> None:
    space, p = Rectangle(KNOTS[:2], [3, 5]), inside(2)
    again = from_state(*space.state())
    assert torch.equal(again.matrix(p), space.matrix(p))


def test_maps_are_kept_and_not_mixed_up() -> None:
    space, p = Rectangle(KNOTS[:1]), inside(1)
    first = space.matrix(p)
    assert space.matrix(p.clone()) is first
    assert space.matrix(p, (1,)) is not first
    p[0] = 0.5
    assert not torch.equal(space.matrix(p), first)


@pytest.mark.parametrize("times", [[2.0], [1.0, 3.0], [0.0, 1.0, 4.0], [0.0, 1.0, 2.5, 3.0, 4.0]])
def test_a_curve_goes_through_times_of_ones_own(times: list[float]) -> None:
    time = TimeMap.through(times)
    degree = min(3, len(times) - 1)
    t = torch.linspace(time.start, time.end, 9, dtype=torch.float64)
    assert (time.matrix(t) @ time.nodes**degree - t**degree).abs().max() < 1e-12
    if degree:
        slope = degree * t ** (degree - 1)
        assert (time.matrix(t, 1) @ time.nodes**degree - slope).abs().max() < 1e-10


def test_gauss_times_come_back_from_their_state() -> None:
    time = TimeMap.collocation([0.0, 1.0, 3.0], 4)
    t = torch.linspace(0, 3, 50, dtype=torch.float64)
    assert (time.matrix(t) @ time.nodes**4 - t**4).abs().max() < 1e-11
    assert torch.equal(TimeMap.from_state(*time.state()).matrix(t), time.matrix(t))
    with pytest.raises(DomainError):
        TimeMap.through(np.array([0.0, 2.0, 1.0]))


@pytest.mark.parametrize("wraps", [False, True])
def test_a_full_grid_is_its_own_map(wraps: bool) -> None:
    lines = [np.sort(np.random.default_rng(3).random(24)), np.linspace(-1, 1, 20)]
    lines[0][0] = 0.0
    space = Rectangle.through(lines, (1.01 + lines[0][-1] if wraps else None, None))
    length = float(space.axes[0].knots[-1])

    def wave(p: Tensor) -> Tensor:
        return torch.stack([torch.sin(2 * torch.pi * p[:, 0] / length) * p[:, 1] ** 3, p[:, 1]], 1)

    p = torch.rand(300, 2, dtype=torch.float64) * torch.tensor([length, 2.0], dtype=torch.float64) + torch.tensor(
        [0.0, -1.0]
    )
    values = wave(space.nodes)
    assert (space.evaluate(values, space.nodes) - values).abs().max() < 1e-12
    assert (space.evaluate(values, p)[:, 1] - p[:, 1]).abs().max() < 1e-12
    if not wraps:
        assert (space.evaluate(values, p) - wave(p)).abs().max() < 0.02
        assert "top" in space.boundary
    assert (space.matrix(p, (0, 1)) @ values)[:, 1].sub(1).abs().max() < 1e-10
    found = space.stencil(p)
    stencilled = (space.coefficients(values)[found.at] * found.weights[..., None]).sum(1)
    assert (stencilled - space.matrix(p) @ values).abs().max() < 1e-12
    grid = space.grid(values, p[:7, 0].sort().values, p[:5, 1].sort().values)
    assert grid.shape == (7, 5, 2)
    again = from_state(*space.state())
    assert torch.equal(again.matrix(p), space.matrix(p))
    if wraps:
        moved = p + torch.tensor([length, 0.0], dtype=torch.float64)
        assert (space.evaluate(values, moved) - space.evaluate(values, p)).abs().max() < 1e-10
    assert abs(float(space.integral().sum()) - 2 * length) < 1e-10
