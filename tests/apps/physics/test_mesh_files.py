"""XDMF series and Gmsh meshes."""

from __future__ import annotations

from pathlib import Path

import meshio
import numpy as np
import pytest

from farfield.apps.physics.cases import Wanted, described
from farfield.apps.physics.mesh_files import read_mesh, read_xdmf
from farfield.apps.training import UserError
from tests.apps.physics.small import square_case

GMSH = """$MeshFormat
2.2 0 8
$EndMeshFormat
$PhysicalNames
2
1 7 "inlet"
2 8 "fluid"
$EndPhysicalNames
$Nodes
5
1 0 0 0
2 1 0 0
3 1 1 0
4 0 1 0
5 9 9 0
$EndNodes
$Elements
3
1 1 2 7 1 4 1
2 2 2 8 1 1 2 3
3 2 2 8 1 1 3 4
$EndElements
"""


def write_xdmf(path: Path, times: list[float]) -> None:
    case = square_case()
    points = np.pad(case.nodes, ((0, 0), (0, 1)))
    with meshio.xdmf.TimeSeriesWriter(str(path)) as writer:
        writer.write_points_cells(points, [("quad", case.cells["quad"])])
        for t in times:
            middle = case.nodes[case.cells["quad"]].mean(axis=1)[:, 0] + t
            vector = np.stack([case.nodes[:, 0], np.full(25, t), np.zeros(25)], axis=1)
            writer.write_data(t, point_data={"u": case.nodes[:, 1] + t, "w": vector}, cell_data={"q": [middle]})


def test_an_xdmf_series_is_read_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_xdmf(tmp_path / "a.xdmf", [1.0, 0.0, 3.0])
    case, nodes = read_xdmf(tmp_path / "a.xdmf"), square_case().nodes
    assert case.times.tolist() == [0.0, 1.0, 3.0]
    assert "were sorted" in case.notes[0]
    assert {n: f.components for n, f in case.fields.items()} == {"u": 1, "w": 2, "q": 1}
    assert np.abs(case.read("u")[..., 0] - nodes[:, 1] - case.times[:, None]).max() < 1e-15
    assert np.abs(case.read("w", 2)[0, :, 1] - 3).max() == 0
    inside = (np.abs(nodes - 0.5) < 0.4).all(axis=1)
    assert np.abs(case.read("q", 1, 2)[0, inside, 0] - nodes[inside, 0] - 1).max() < 1e-14


def test_a_gmsh_mesh_brings_its_physical_groups(tmp_path: Path) -> None:
    (tmp_path / "a.msh").write_text(GMSH)
    case = read_mesh(tmp_path / "a.msh")
    assert case.cells["triangle"].tolist() == [[0, 1, 2], [0, 2, 3]]
    assert case.boundary["inlet"].tolist() == [0, 3]
    assert case.nodes.shape == (5, 2)
    (prepared,) = described(str(tmp_path / "a.msh"), Wanted())
    assert len(prepared.nodes) == 4
    assert "1 nodes that belong to no cell" in prepared.notes[0]


def test_broken_files_are_named(tmp_path: Path) -> None:
    for name in ("a.xdmf", "a.msh"):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(UserError, match="cannot be read"):
            described(str(tmp_path / name), Wanted())
