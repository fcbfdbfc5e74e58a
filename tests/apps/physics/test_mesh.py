"""Meshes: signed sizes, orientation, pieces, averages of cells."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.case import problems
from farfield.apps.physics.mesh import (
    CORNERS,
    DIMENSION,
    cells_to_points,
    edges,
    grid_cells,
    measures,
    oriented,
    pieces,
    rim,
    seam_edges,
    simplified,
)  # fmt: skip
from farfield.apps.training import UserError
from tests.apps.physics.small import square_case

CUBE = np.array([[x, y, z] for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], dtype=float)
# One cell of each kind and its size.
SHAPES = {
    "line": (np.array([[0.0], [2.0]]), 2.0),
    "triangle": (CUBE[:3, :2], 0.5),
    "quad": (CUBE[:4, :2], 1.0),
    "tetra": (CUBE[[0, 1, 3, 4]], 1 / 6),
    "pyramid": (np.concatenate([CUBE[:4], [[0.5, 0.5, 1]]]), 1 / 3),
    "wedge": (CUBE[[0, 3, 1, 4, 7, 5]], 0.5),
    "hexahedron": (CUBE, 1.0),
}


@pytest.mark.parametrize("kind", CORNERS)
def test_sizes_are_right_and_turn_with_the_cell(kind: str) -> None:
    nodes, size = SHAPES[kind]
    cells = {kind: np.arange(CORNERS[kind])[None]}
    assert measures(nodes, cells)[kind] == pytest.approx(size)
    mirrored = nodes * np.array([-1, 1, 1][: nodes.shape[1]])
    assert measures(mirrored, cells)[kind] == pytest.approx(-size)
    turned, found = oriented(mirrored, cells)
    assert not found
    assert measures(mirrored, turned)[kind] == pytest.approx(size)
    assert rim(cells).tolist() == list(range(CORNERS[kind]))
    assert len(nodes) - len(edges(cells)) <= 1


def test_a_surface_in_space_has_its_area() -> None:
    nodes = np.array([[0.0, 0, 0], [1, 0, 1], [0, 1, 0]])
    assert measures(nodes, {"triangle": np.array([[0, 1, 2]])})["triangle"] == pytest.approx(np.sqrt(2) / 2)


def test_inverted_and_empty_cells_are_told() -> None:
    case = square_case()
    cells = case.cells["quad"].copy()
    cells[3] = cells[3, ::-1]
    cells[5] = cells[5, [0, 0, 0, 0]]
    found = problems(square_case(cells={"quad": cells}))
    assert any("1 of 16 quad cells are inverted (the first: 3)" in text for text in found)
    assert any("1 of 16 quad cells are of no size (the first: 5)" in text for text in found)
    assert not problems(square_case(cells={"quad": case.cells["quad"][:, ::-1]})), (
        "left-handed throughout is a convention"
    )


def test_a_mesh_in_two_pieces_is_told() -> None:
    nodes = np.concatenate([square_case().nodes, square_case().nodes[:9] + 5])
    cells = {"quad": np.concatenate([grid_cells((5, 5))["quad"], [[25, 26, 31, 30]]])}
    label = pieces(len(nodes), edges(cells))
    assert np.bincount(label)[0] == 25
    found = problems(square_case(nodes=nodes, cells=cells))
    assert "falls into 7 pieces" in found[-1]
    assert "parts=largest" in found[-1]


def test_the_seam_of_a_periodic_grid_joins_its_ends() -> None:
    axis = np.arange(6) / 6
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = edges(grid_cells((6, 6)))
    joined = seam_edges(nodes, (1.0, None), pairs)
    assert {tuple(p) for p in joined if p[1] >= 30 and p[0] < 6} == {(i, 30 + i) for i in range(6)}
    halves = pairs[~((pairs[:, 0] // 6 == 2) & (pairs[:, 1] // 6 == 3))]
    assert pieces(36, halves).max() == 1
    assert pieces(36, np.concatenate([halves, joined])).max() == 0
    assert not len(seam_edges(nodes, (None, None), pairs))


def test_averages_of_cells_keep_linear_fields_inside() -> None:
    case = square_case(8)
    middle = case.nodes[case.cells["quad"]].mean(axis=1)
    values = (3 + middle[:, 0] - 2 * middle[:, 1])[:, None]
    found = cells_to_points(case.nodes, case.cells, {"quad": values})[:, 0]
    inside = np.setdiff1d(np.arange(81), rim(case.cells))
    assert np.abs(found - (3 + case.nodes[:, 0] - 2 * case.nodes[:, 1]))[inside].max() < 1e-14
    assert np.ptp(found) > 2
    # Two cells of sizes 1 and 3 weigh as such.
    line = cells_to_points(
        np.array([[0.0], [1.0], [4.0]]), {"line": np.array([[0, 1], [1, 2]])}, {"line": np.array([[0.0], [8.0]])}
    )
    assert line.ravel().tolist() == pytest.approx([0, 6, 8])


def test_cells_with_nodes_on_edges_are_split() -> None:
    nodes = np.array([[0.0, 0], [2, 0], [0, 2], [1, 0], [1, 1], [0, 1]])
    cells = simplified({"triangle6": np.arange(6)[None], "vertex": np.zeros((1, 1), np.int64)})
    assert list(cells) == ["triangle"]
    assert measures(nodes, cells)["triangle"].tolist() == [0.5] * 4
    with pytest.raises(UserError, match="Tetrahedralize"):
        simplified({"polygon5": np.arange(5)[None]})


def test_every_kind_has_a_dimension() -> None:
    assert set(CORNERS) == set(DIMENSION)
