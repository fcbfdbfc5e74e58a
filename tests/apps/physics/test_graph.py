"""Graphs: who hears whom, in one piece, never through a wall."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.physics.gnn import hear
from farfield.apps.physics.graph import delaunay_pairs, graph_of, grid_pairs, nearest_pairs, territory_pairs
from farfield.apps.physics.mesh import edges, grid_cells
from farfield.apps.training import UserError


def square(n: int) -> np.ndarray:
    axis = np.linspace(0, 1, n)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def heard_by(graph: object, node: int) -> set[int]:
    row = graph.source.view(graph.nodes, graph.degree)[node]  # type: ignore[attr-defined]
    return set(row[graph.mask[node]].tolist())  # type: ignore[attr-defined]


def test_every_node_hears_its_neighbours_and_is_heard_by_them() -> None:
    graph = graph_of(square(5), grid_pairs((5, 5), (False, False)))
    assert heard_by(graph, 12) == {6, 7, 8, 11, 13, 16, 17, 18}
    assert heard_by(graph, 0) == {1, 5, 6}
    assert all(i in heard_by(graph, j) for i in range(25) for j in heard_by(graph, i))


def test_further_levels_reach_further() -> None:
    graph = graph_of(square(5), grid_pairs((5, 5), (False, False), levels=2))
    assert {0, 2, 4, 10, 14, 20, 22, 24} <= heard_by(graph, 12)


def test_an_axis_that_wraps_around_joins_its_ends_at_a_short_distance() -> None:
    nodes = square(6)[:, :] * 5 / 6
    graph = graph_of(nodes, grid_pairs((6, 6), (True, True)), (1.0, 1.0))
    assert graph.mask.all()
    assert graph.degree == 8
    assert float(graph.features[:, -1].max()) < 1.5


def test_directions_point_to_the_neighbour_and_lengths_are_in_mean_edges() -> None:
    graph = graph_of(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]]), np.array([[0, 1], [1, 2]]))
    assert graph.features[0].tolist() == [1.5, 0.0, 1.5]
    assert float(graph.features[graph.mask.flatten(), -1].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("pairs", [grid_pairs((4, 4), (False, False), 2), np.array([[0, k] for k in range(1, 16)])])
def test_the_gradient_of_hearing_is_exact(pairs: np.ndarray) -> None:
    graph = graph_of(square(4), pairs)
    x = torch.randn(1, 2, 16, 2, dtype=torch.float64, requires_grad=True)

    def heard(x: torch.Tensor) -> torch.Tensor:
        return torch.where(graph.mask[..., None], hear(x, graph), 0.0)

    assert torch.autograd.gradcheck(heard, (x,))


def test_a_graph_in_pieces_is_refused() -> None:
    with pytest.raises(UserError, match="2 pieces"):
        graph_of(square(2), np.array([[0, 1], [2, 3]]))


def test_nodes_without_a_position_are_refused() -> None:
    nodes = square(2)
    nodes[3] = np.nan
    with pytest.raises(UserError, match="no position"):
        graph_of(nodes, np.array([[0, 1], [1, 2], [2, 3]]))


def test_delaunay_and_nearest_do_not_see_through_a_wall() -> None:
    nodes = square(9)

    def inside(points: np.ndarray) -> np.ndarray:
        return ~((np.abs(points[:, 0] - 0.45) < 0.02) & (points[:, 1] < 0.8))

    for pairs in (delaunay_pairs(nodes, inside), nearest_pairs(nodes, 8, inside)):
        a, b = nodes[pairs[:, 0]], nodes[pairs[:, 1]]
        across = ((a[:, 0] < 0.45) != (b[:, 0] < 0.45)) & (np.maximum(a[:, 1], b[:, 1]) < 0.7)
        assert not across.any()
        assert len(pairs) > 100


def test_territories_on_both_sides_of_a_slit_do_not_touch() -> None:
    n = 9
    nodes, quads = square(n), grid_cells((n, n))["quad"]
    # Cells between the fourth and fifth column are missing up to y = 0.75: a slit.
    gap = (quads[:, 0] // n == 4) & (quads[:, 0] % n < 6)
    pairs = edges({"quad": quads[~gap]})
    chosen = np.flatnonzero((np.arange(n * n) // n % 2 == 0) | (np.arange(n * n) % 3 == 0))
    found = territory_pairs(nodes, pairs, chosen, 2)
    a, b = nodes[chosen[found[:, 0]]], nodes[chosen[found[:, 1]]]
    across = ((a[:, 0] <= 0.5) != (b[:, 0] <= 0.5)) & (np.maximum(a[:, 1], b[:, 1]) < 0.5)
    short = np.linalg.norm(a - b, axis=1) < 0.3
    assert not (across & short).any()
    graph_of(nodes[chosen], found)


def test_nodes_on_a_line_are_joined_in_order() -> None:
    assert delaunay_pairs(np.array([[0.3], [0.1], [0.9]])).tolist() == [[1, 0], [0, 2]]
