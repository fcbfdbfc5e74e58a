"""Many runs with different meshes, their parameters, parts of the boundary, defects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.physics import hdf5
from farfield.apps.physics.case import Field, in_memory
from farfield.apps.physics.cases import Wanted, described, open_cases
from farfield.apps.physics.vtk_series import write_series
from farfield.apps.training import UserError
from tests.apps.physics.small import square_case

UNITS = {"u": "K", "w": "m s-1", "x": "m", "t": "s"}


def runs(folder: Path) -> str:
    """Three PVD runs of different meshes, their viscosity in the name of their folder, units nowhere."""
    for n, nu in ((3, 0.01), (4, 2e-3), (11, 1.0)):
        write_series(square_case(n, static={}, boundary={}), folder / f"nu={nu}")
        (folder / f"nu={nu}" / "case.json").unlink()
    return str(folder / "*" / "case.pvd")


def test_runs_of_different_meshes_come_with_their_parameters(tmp_path: Path) -> None:
    wanted = Wanted(fields=["u"], static=["nu"], units={**UNITS, "nu": "m2 s-1"})
    cases = open_cases(runs(tmp_path), wanted)
    assert [len(c.nodes) for c in cases] == [16, 25, 144]
    assert [c.static["nu"].value for c in cases] == [0.01, 0.002, 1.0]
    assert {c.static["nu"].units for c in cases} == {"m2 s-1"}
    assert list(cases[0].fields) == ["u"]


def test_parts_of_the_boundary_come_from_boxes_or_nodes(tmp_path: Path) -> None:
    pattern = runs(tmp_path)
    (tmp_path / "tags.csv").write_text("tag, x_min, x_max, y_min, y_max\ninlet,,0,,\nwall,,,,0\nwall,,,1,\n")
    wanted = Wanted(static=[], units=UNITS, boundary=str(tmp_path / "tags.csv"))
    for case, n in zip(open_cases(pattern, wanted), (3, 4, 11), strict=True):
        assert len(case.boundary["inlet"]) == n + 1
        assert set(case.nodes[case.boundary["wall"], 1]) == {0.0, 1.0}
    (tmp_path / "nu=0.01" / "tags.csv").write_text("tag,node\na,3\na,1\n")
    (case,) = open_cases(str(tmp_path / "nu=0.01" / "case.pvd"), replace(wanted, boundary="tags.csv"))
    assert case.boundary["a"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,node\na,1\n", "its columns are name, node; accepted: tag,node or tag,x_min"),
        ("tag,node\na,99\n", "line 2: node 99; the mesh has 0 to 15"),
        ("tag,node\na,b\n", "line 2: .* no number"),
        ("tag,x_min\na,7\n", "no node of .* in the part 'a'"),
    ],
)
def test_a_wrong_boundary_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    runs(tmp_path)
    (tmp_path / "tags.csv").write_text(text)
    wanted = Wanted(units=UNITS, boundary=str(tmp_path / "tags.csv"))
    with pytest.raises(UserError, match=said):
        described(str(tmp_path / "nu=0.01" / "case.pvd"), wanted)
    with pytest.raises(UserError, match="cannot be read"):
        described(str(tmp_path / "nu=0.01" / "case.pvd"), replace(wanted, boundary="nowhere.csv"))


def test_a_disconnected_mesh_is_refused_or_its_largest_part_kept(tmp_path: Path) -> None:
    whole = square_case(8)
    middle = np.abs(whole.nodes[whole.cells["quad"]].mean(axis=1)[:, 0] - 0.5) > 0.1
    right = whole.nodes[whole.cells["quad"]].mean(axis=1)[:, 0] < 0.7
    case = square_case(8, cells={"quad": whole.cells["quad"][middle & right]})
    hdf5.write(case, tmp_path / "a.h5")
    path = str(tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"falls into 2 pieces, of 36, 18 nodes.*parts=largest"):
        open_cases(path, Wanted())
    (kept,) = open_cases(path, Wanted(parts="largest"))
    assert kept.nodes[:, 0].max() == 0.375
    assert any("18 nodes outside the largest" in note for note in kept.notes)
    assert kept.read("u").shape == (3, 36, 1)
    assert kept.boundary["left"].tolist() == list(range(9))


def test_both_parts_may_be_kept_on_purpose(tmp_path: Path) -> None:
    cells = square_case().cells["quad"]
    middle = square_case().nodes[cells].mean(axis=1)[:, 0]
    hdf5.write(square_case(cells={"quad": cells[(middle < 0.25) | (middle > 0.75)]}), tmp_path / "a.h5")
    (case,) = open_cases(str(tmp_path / "a.h5"), Wanted(parts="all"))
    assert len(case.nodes) == 20
    assert case.origin["pieces"] == "2"


def test_inverted_cells_are_refused(tmp_path: Path) -> None:
    cells = square_case().cells["quad"].copy()
    cells[7] = cells[7, ::-1]
    hdf5.write(square_case(cells={"quad": cells}), tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"1 of 16 quad cells are inverted \(the first: 7\)"):
        open_cases(str(tmp_path / "a.h5"), Wanted())


def test_nodes_without_a_position_are_refused(tmp_path: Path) -> None:
    nodes = square_case().nodes.copy()
    nodes[3, 1] = np.nan
    hdf5.write(square_case(nodes=nodes), tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"1 of 25 nodes have no position \(the first: 3\)"):
        open_cases(str(tmp_path / "a.h5"), Wanted())


def test_values_that_are_no_numbers_are_refused_when_read(tmp_path: Path) -> None:
    u = np.ones((3, 25, 1))
    u[2, 4] = np.inf
    case = square_case(fields={"u": Field("u", "K")}, reader=in_memory({"u": u}))
    hdf5.write(case, tmp_path / "a.h5")
    (found,) = open_cases(str(tmp_path / "a.h5"), Wanted())
    with pytest.raises(UserError, match="1 of 25 nodes, first at time 1, node 4"):
        found.read("u")
    (dropped,) = open_cases(str(tmp_path / "a.h5"), Wanted(missing="drop"))
    assert len(dropped.nodes) == 24


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(fields=["q"]), "no field 'q'; it has u, w"),
        (Wanted(static=["re"]), "parameter 're' is not known; the file has nu"),
    ],
)
def test_names_that_are_not_there_are_named(tmp_path: Path, wanted: Wanted, said: str) -> None:
    hdf5.write(square_case(), tmp_path / "a.h5")
    with pytest.raises(UserError, match=said):
        open_cases(str(tmp_path / "a.h5"), wanted)


def test_files_of_no_known_kind_and_patterns_without_a_match_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"files that end in .csv are not read; accepted: HDF5"):
        described(str(tmp_path / "a.csv"), Wanted())
    with pytest.raises(UserError, match="no file has that name"):
        described([str(tmp_path / "*.h5")], Wanted())


def test_settings_of_a_recipe_are_looked_at() -> None:
    wanted = Wanted.of(["u"], None, ["u:m s-1", "x : km"], None, ["depth:5"], "all", "drop")
    assert (wanted.units, wanted.select) == ({"u": "m s-1", "x": "km"}, {"depth": 5.0})
    for words, said in (
        ({"units": ["u"]}, "name:value is accepted"),
        ({"select": ["depth:deep"]}, "a number is accepted"),
        ({"parts": "some"}, "error, largest, all"),
        ({"missing": "fill"}, "error, drop"),
        ({"fields": "u"}, r"for example fields=\[u\]"),
    ):
        given = {
            "fields": None,
            "static": None,
            "units": [],
            "boundary": None,
            "select": [],
            "parts": "all",
            "missing": "drop",
        }
        with pytest.raises(UserError, match=said):
            Wanted.of(**(given | words))
