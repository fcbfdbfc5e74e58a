"""Space maps on meshes with holes and thin walls."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.apps.physics.coarsen import choose, corners
from farfield.apps.physics.equations.domain import Bar, Disk, Domain, triangulate
from farfield.apps.physics.irregular import Irregular
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.physics.rims import border
from farfield.apps.physics.space import from_state
from farfield.core_ops.errors import DomainError, ShapeError

DOMAIN = Domain((1.0, 1.0), (Disk("hole", (0.3, 0.65), 0.12), Bar("wall", (0.6, 0.2), (0.62, 0.8))))


@lru_cache(maxsize=1)
def mesh() -> tuple[Any, Any, Any]:
    """Nodes, cells and parts of the boundary."""
    nodes, triangles = triangulate(DOMAIN, 0.05, 0.02)
    return nodes, {"triangle": triangles}, DOMAIN.boundary(nodes)


@lru_cache(maxsize=4)
def space(count: int | None = None, held: bool = False) -> Irregular:
    """A map from all nodes, or from a few."""
    nodes, cells, parts = mesh()
    chosen = None if count is None else choose(nodes, cells, count, parts)
    return Irregular(nodes, cells, parts, chosen, list(parts) if held else ())


def inside(count: int = 4000) -> Tensor:
    """Random points of the domain."""
    p = np.random.default_rng(0).random((count, 2))
    return torch.from_numpy(p[DOMAIN.distance(p) < -1e-3])


def quadratic(p: Tensor) -> Tensor:
    return (p[:, 0] ** 2 - 2 * p[:, 0] * p[:, 1] + 3 * p[:, 1] ** 2 - p[:, 0] + 1)[:, None]


def test_quadratics_are_exact_with_their_slopes() -> None:
    p, values = inside(), quadratic(space().nodes)
    assert (space().evaluate(values, p) - quadratic(p)).abs().max() < 1e-12
    assert (space().evaluate(values, p, (1, 0))[:, 0] - (2 * p[:, 0] - 2 * p[:, 1] - 1)).abs().max() < 1e-10
    assert (space().evaluate(values, p, (0, 2))[:, 0] - 6).abs().max() < 1e-7


def test_a_few_nodes_give_smooth_fields() -> None:
    few, p = space(200, True), inside()
    f = torch.sin(4 * p[:, 0]) * torch.cos(3 * p[:, 1])
    values = (torch.sin(4 * few.nodes[:, 0]) * torch.cos(3 * few.nodes[:, 1]))[:, None]
    error = few.evaluate(values, p)[:, 0] - f
    assert error.norm() < 5e-3 * f.norm()
    assert error.abs().max() < 0.05


def test_slopes_are_continuous_across_sides() -> None:
    nodes, cells, _ = mesh()
    triangles = cells["triangle"]
    on_rim = np.unique(border(triangles))
    inner = ~np.isin(triangles, on_rim).any(axis=1)
    a, b = nodes[triangles[inner, 0]], nodes[triangles[inner, 1]]
    across = np.stack([-(b - a)[:, 1], (b - a)[:, 0]], axis=1)
    values = torch.from_numpy(np.random.default_rng(1).standard_normal((len(nodes), 1)))
    for orders in ((1, 0), (0, 1)):
        one, two = (
            space().evaluate(values, torch.from_numpy(0.3 * a + 0.7 * b + s * across), orders) for s in (1e-7, -1e-7)
        )
        assert (one - two).abs().max() < 1e-4 * one.abs().max()


def test_nothing_passes_a_thin_wall() -> None:
    few, p = space(200, True), inside(20_000)
    sides = (few.nodes[:, :1] > 0.61).double()
    spacing = 200**-0.5
    beside = (p[:, 1] > 0.2 + 3 * spacing) & (p[:, 1] < 0.8 - 3 * spacing) & ((p[:, 0] - 0.61).abs() < spacing)
    p = p[beside]
    assert len(p) > 100
    assert (few.evaluate(sides, p)[:, 0] - (p[:, 0] > 0.61).double()).abs().max() < 1e-6
    assert few.evaluate(sides, p, (1, 0)).abs().max() < 1e-6


def test_held_parts_depend_on_their_own_nodes_alone() -> None:
    nodes, cells, parts = mesh()
    few = space(200, True)
    sides = border(cells["triangle"])
    for tag in parts:
        values = torch.randn(len(few.nodes), 1, dtype=torch.float64)
        values[few.boundary[tag]] = 7.0
        on = sides[np.isin(sides, parts[tag]).all(axis=1)]
        for share in (0.0, 0.3, 0.5):
            p = torch.from_numpy(nodes[on[:, 0]] * share + nodes[on[:, 1]] * (1 - share))
            assert (few.evaluate(values, p) - 7).abs().max() < 1e-6


def test_holes_and_walls_are_outside() -> None:
    bad = torch.tensor([[0.3, 0.65], [0.61, 0.5], [0.61, 0.9], [1.2, 0.5], [float("nan"), 0.5]], dtype=torch.float64)
    assert space().contains(bad).tolist() == [False, False, True, False, False]
    with pytest.raises(DomainError, match=r"4 of 5 points .* number 0, at \(0.3, 0.65\), inside an obstacle"):
        space().stencil(bad)
    p = torch.from_numpy(np.random.default_rng(2).random((5000, 2)))
    away = np.abs(DOMAIN.distance(p.numpy())) > 2e-3
    assert (space().contains(p).numpy() == (DOMAIN.distance(p.numpy()) < 0))[away].all()


def test_integrals_are_those_of_the_mesh() -> None:
    corner = mesh()[0][mesh()[1]["triangle"]]
    area = np.abs(np.linalg.det(corner[:, 1:] - corner[:, :1])) / 2
    x = corner.mean(axis=1)
    linear = (area * (x[:, 0] - 2 * x[:, 1])).sum()
    for one in (space(), space(200, True)):
        weights = one.integral()
        assert abs(float(weights.sum()) - area.sum()) < 1e-10
        assert abs(float(weights @ (one.nodes[:, 0] - 2 * one.nodes[:, 1])) - linear) < 1e-5


def test_gradients_reach_the_values() -> None:
    few, p = space(200, True), inside(50)
    values = torch.randn(2, 200, 3, requires_grad=True)
    out = few.evaluate(values, p)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    assert torch.allclose(gradient[1, :, 0], few.matrix(p).sum(0).float(), atol=1e-5)


def test_a_map_comes_back_from_its_state() -> None:
    few, p = space(200, True), inside(50)
    again = from_state(*few.state())
    assert torch.equal(again.matrix(p), few.matrix(p))
    assert {k: v.tolist() for k, v in again.boundary.items()} == {k: v.tolist() for k, v in few.boundary.items()}


def test_quads_are_cut_into_triangles() -> None:
    axis = np.linspace(0, 1, 7)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = Irregular(nodes, grid_cells((7, 7)))
    p = torch.rand(200, 2, dtype=torch.float64)
    assert (grid.evaluate(quadratic(grid.nodes), p) - quadratic(p)).abs().max() < 1e-11


def test_nodes_are_chosen_at_corners_and_where_the_density_is() -> None:
    nodes, cells, parts = mesh()
    chosen = choose(nodes, cells, 120, parts, np.exp(-np.linalg.norm(nodes - [0.9, 0.9], axis=1) / 0.1))
    assert len(np.unique(chosen)) == 120
    found = {tuple(x) for x in nodes[corners(nodes, cells["triangle"], parts)].round(6).tolist()}
    assert found == {(0, 0), (1, 0), (0, 1), (1, 1), (0.6, 0.2), (0.62, 0.2), (0.6, 0.8), (0.62, 0.8)}
    assert set(corners(nodes, cells["triangle"], parts)) <= set(chosen)
    even = choose(nodes, cells, 120, parts)
    near = np.linalg.norm(nodes - [0.9, 0.9], axis=1) < 0.2
    assert near[chosen].sum() > 2 * near[even].sum()


def test_wrong_meshes_and_choices_are_refused() -> None:
    nodes, cells, parts = mesh()
    with pytest.raises(ShapeError, match="triangles"):
        Irregular(nodes, {})
    with pytest.raises(DomainError, match="no area"):
        Irregular(nodes, {"triangle": np.concatenate([cells["triangle"], [[0, 0, 1]]])})
    with pytest.raises(ShapeError, match="held"):
        Irregular(nodes, cells, parts, held=["lid"])
    with pytest.raises(DomainError, match="no node is chosen on the held line"):
        Irregular(nodes, cells, parts, np.setdiff1d(np.arange(len(nodes)), parts["hole"]), ["hole"])
    with pytest.raises(ShapeError, match="8 corners"):
        choose(nodes, cells, 5, parts)
    with pytest.raises(ShapeError, match="two derivatives"):
        space().stencil(inside(5), (2, 1))
