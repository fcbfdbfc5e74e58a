"""PVD, VTU and PVTU: written and read, in pieces, out of order, with fields of cells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.physics.case import problems
from farfield.apps.physics.cases import Wanted, described, open_cases
from farfield.apps.physics.vtk_series import read_pvd, write_series, write_vtu
from farfield.apps.training import UserError
from tests.apps.physics.small import same, square_case


def pvd(folder: Path, sets: list[tuple[object, str]]) -> Path:
    lines = "".join(
        f'<DataSet timestep="{t}" part="{p}" file="{f}"/>' for t, f, p in (s if len(s) == 3 else (*s, 0) for s in sets)
    )
    (folder / "case.pvd").write_text(f'<VTKFile type="Collection"><Collection>{lines}</Collection></VTKFile>')
    return folder / "case.pvd"


def frame(folder: Path, name: str, level: float, **how: object) -> str:
    case = square_case()
    write_vtu(folder / name, case.nodes, case.cells, {"u": np.full((25, 1), level)}, **how)  # type: ignore[arg-type]
    return name


def test_a_series_comes_back_whole(tmp_path: Path) -> None:
    write_series(square_case(), tmp_path / "run")
    same(square_case(), read_pvd(tmp_path / "run" / "case.pvd"))
    assert not problems(read_pvd(tmp_path / "run" / "case.pvd"))


def test_times_out_of_order_are_sorted_and_told(tmp_path: Path) -> None:
    case = read_pvd(pvd(tmp_path, [(t, frame(tmp_path, f"f{i}.vtu", t)) for i, t in enumerate((2.0, 0.5, 1.0))]))
    assert case.times.tolist() == [0.5, 1.0, 2.0]
    assert case.read("u")[:, 0, 0].tolist() == [0.5, 1.0, 2.0]
    assert "were sorted" in case.notes[0]


def test_a_time_twice_is_refused(tmp_path: Path) -> None:
    name = frame(tmp_path, "f.vtu", 1.0)
    with pytest.raises(UserError, match="time 1 comes twice"):
        read_pvd(pvd(tmp_path, [(1.0, name), (2.0, name), (1.0, name)]))


def test_frames_by_themselves_say_their_times(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        frame(tmp_path, f"f{i}.vtu", float(i), time=float(i))
    (case,) = described(str(tmp_path / "*.vtu"), Wanted())
    assert case.times.tolist() == [1.0, 2.0, 10.0]
    assert case.notes == ()
    frame(tmp_path, "f11.vtu", 1.0)
    with pytest.raises(UserError, match="says no time"):
        described(str(tmp_path / "*.vtu"), Wanted())


def halves(folder: Path) -> tuple[list[str], np.ndarray]:
    """The square in two parts that share a column of nodes."""
    case, names = square_case(), []
    for i, side in enumerate((case.nodes[:, 0] <= 0.5, case.nodes[:, 0] >= 0.5)):
        rank = np.cumsum(side) - 1
        cells = case.cells["quad"][side[case.cells["quad"]].all(axis=1)]
        names.append(f"part{i}.vtu")
        write_vtu(folder / names[-1], case.nodes[side], {"quad": rank[cells]}, {"u": case.read("u")[0][side]})
    return names, case.nodes


def test_parts_are_joined_along_their_seam(tmp_path: Path) -> None:
    names, nodes = halves(tmp_path)
    by_pvd = read_pvd(pvd(tmp_path, [(0.0, names[0], 0), (0.0, names[1], 1)]))
    pieces = "".join(f'<Piece Source="{name}"/>' for name in names)
    (tmp_path / "all.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" version="0.1" byte_order="LittleEndian"><PUnstructuredGrid GhostLevel="0">'
        '<PPointData><PDataArray type="Float64" Name="u"/></PPointData>'
        f'<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>{pieces}</PUnstructuredGrid></VTKFile>'
    )
    (by_pvtu,) = described(str(tmp_path / "all.pvtu"), Wanted())
    for case in (by_pvd, by_pvtu):
        assert len(case.nodes) == 25
        assert len(case.cells["quad"]) == 16
        assert sorted(map(tuple, case.nodes)) == sorted(map(tuple, nodes))
        assert np.abs(case.read("u")[0, :, 0] - case.nodes @ [1, 2]).max() < 1e-15
        assert not any("pieces" in text for text in problems(case))


def test_fields_of_cells_move_to_the_points(tmp_path: Path) -> None:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridReader, vtkXMLUnstructuredGridWriter

    frame(tmp_path, "f.vtu", 1.0)
    reader, writer = vtkXMLUnstructuredGridReader(), vtkXMLUnstructuredGridWriter()
    reader.SetFileName(str(tmp_path / "f.vtu"))
    reader.Update()
    case = square_case()
    array = numpy_to_vtk(case.nodes[case.cells["quad"]].mean(axis=1)[:, 0].copy(), deep=True)
    array.SetName("q")
    reader.GetOutput().GetCellData().AddArray(array)
    writer.SetInputData(reader.GetOutput())
    writer.SetFileName(str(tmp_path / "f.vtu"))
    writer.Write()
    (found,) = described(str(tmp_path / "f.vtu"), Wanted(fields=["q"]))
    inside = (np.abs(case.nodes - 0.5) < 0.4).all(axis=1)
    assert np.abs(found.read("q")[0, inside, 0] - case.nodes[inside, 0]).max() < 1e-15
    assert found.read("q").max() == pytest.approx(0.875)


def test_a_mesh_that_moves_is_refused(tmp_path: Path) -> None:
    case = square_case()
    write_series(case, tmp_path / "run")
    data = {name: case.read(name)[2] for name in case.fields}
    write_vtu(tmp_path / "run" / "frame-00002.vtu", case.nodes * 1.01, case.cells, data)
    with pytest.raises(UserError, match="not that of the first frame"):
        read_pvd(tmp_path / "run" / "case.pvd").read("u")


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "case.pvd").write_text("<VTKFile><Collection>")
    with pytest.raises(UserError, match="no PVD file"):
        read_pvd(tmp_path / "case.pvd")
    with pytest.raises(UserError, match="lists no frame"):
        read_pvd(pvd(tmp_path, []))
    with pytest.raises(UserError, match="which is not there"):
        read_pvd(pvd(tmp_path, [(0.0, "gone.vtu")]))
    (tmp_path / "bad.vtu").write_text("<VTKFile")
    with pytest.raises(UserError, match="cannot be read as VTU"):
        described(str(tmp_path / "bad.vtu"), Wanted())


def test_missing_units_are_told_until_they_are_given(tmp_path: Path) -> None:
    frame(tmp_path, "f.vtu", 1.0, time=0.0)
    with pytest.raises(UserError, match=r"no units of u, x are known.*units=\[u:m s-1,x:m\]"):
        open_cases(str(tmp_path / "f.vtu"), Wanted())
    (case,) = open_cases(str(tmp_path / "f.vtu"), Wanted(units={"u": "K", "x": "m"}))
    assert case.fields["u"].units == "K"


def test_units_and_parameters_come_from_the_file_beside(tmp_path: Path) -> None:
    path = pvd(tmp_path, [(t, frame(tmp_path, f"f{t}.vtu", t)) for t in (0.0, 1.0)])
    about = {"units": {"u": "K", "x": "m", "t": "s"}, "static": {"nu": [0.01, "m2 s-1"]}}
    (tmp_path / "case.json").write_text(json.dumps(about))
    (case,) = open_cases(str(path), Wanted(static=["nu"]))
    assert case.static["nu"].value == 0.01
    assert (case.static["nu"].units, case.units["t"]) == ("m2 s-1", "s")


def test_a_periodic_case_keeps_its_period(tmp_path: Path) -> None:
    write_series(replace(square_case(), period=(1.25, None)), tmp_path / "run")
    assert read_pvd(tmp_path / "run" / "case.pvd").period == (1.25, None)
