"""`query`: answers at points and whole fields, read back by what others read them with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
import torch
import xarray

from farfield.apps.cli.compose import composed
from farfield.apps.physics.case import Case, Quantity
from farfield.apps.physics.equations.domain import Domain, triangulate
from farfield.apps.physics.field import Field
from farfield.apps.physics.hdf5 import write
from farfield.apps.physics.irregular import Irregular
from farfield.apps.physics.query import query
from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.times import TimeMap
from farfield.apps.physics.vtk_series import read_pvd
from farfield.apps.training import UserError
from tests.apps.physics.small import settings, square_case

UNITS = {"T": "K", "w_x": "m s-1", "w_y": "m s-1", "x": "m", "t": "s"}


def values(x: Any, t: Any) -> Any:
    """T = x + 2 y + t, w = (x t, y)."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.stack([x[..., 0] + 2 * x[..., 1] + t, x[..., 0] * t, x[..., 1] + 0 * t], -1)


def saved(folder: Path, kind: str = "rectangle", members: int = 1) -> Path:
    """A field in a file."""
    space: Any = Rectangle.uniform([0, 0], [1, 2], [3, 4])
    if kind == "irregular":
        nodes, triangles = triangulate(Domain((1.0, 2.0)), 0.2)
        space = Irregular(nodes, {"triangle": triangles})
    time = TimeMap.collocation([0.0, 0.5, 1.0])
    one = values(space.nodes[None], time.nodes[:, None])
    every = torch.stack([one + 0.01 * (k - (members - 1) / 2) for k in range(members)])
    extra = {"factor": torch.full((3,), 2.0), "tolerance": torch.full((3,), 0.05)} if members > 1 else {}
    Field(space, time, every, ["T", "w_x", "w_y"], UNITS, static={"nu": Quantity(0.1, "m2 s-1")}, **extra).save(
        folder / "field.safetensors"
    )
    return folder / "field.safetensors"


def ask(folder: Path, **given: Any) -> Path:
    """The verb with the recipe's settings but these."""
    if "checkpoint" not in given:
        given["checkpoint"] = str(saved(folder))
    return query(run_folder=folder, **settings("query", "checkpoint=given", **given))


def written(folder: Path, text: str) -> str:
    (folder / "points.csv").write_text(text)
    return str(folder / "points.csv")


POINTS = "name,x (m),y (m),t\nb,0.5,1.0,1.0\na,0.25,0.5,0.5\nb,0.5,1.0,1.0\n"


def test_answers_come_in_the_order_of_the_points(tmp_path: Path) -> None:
    out = ask(tmp_path, points=written(tmp_path, POINTS), derivatives=["T:x", "w_x:xt"], out=str(tmp_path / "a.csv"))
    rows = list(csv.DictReader(out.open()))
    assert [row["name"] for row in rows] == ["b", "a", "b"]
    np.testing.assert_allclose([float(row["T (K)"]) for row in rows], [3.5, 1.75, 3.5], atol=1e-12)
    np.testing.assert_allclose([float(row["T:x (K m-1)"]) for row in rows], 1, atol=1e-10)
    np.testing.assert_allclose([float(row["w_x:xt (m s-1 m-1 s-1)"]) for row in rows], 1, atol=1e-10)
    assert "trusted" not in rows[0]
    again = ask(tmp_path, points=str(out), out=str(tmp_path / "b.csv"))
    assert [row["T (K)"] for row in csv.DictReader(again.open())] == [row["T (K)"] for row in rows]


def test_an_ensemble_says_how_far_it_can_be_trusted(tmp_path: Path) -> None:
    field = str(saved(tmp_path, members=3))
    out = ask(tmp_path, checkpoint=field, points=written(tmp_path, POINTS), out=str(tmp_path / "a.csv"))
    rows = list(csv.DictReader(out.open()))
    np.testing.assert_allclose([float(row["T error (K)"]) for row in rows], 0.02, rtol=1e-9)
    assert [row["trusted"] for row in rows] == ["1"] * 3


def test_xarray_reads_points_and_grids(tmp_path: Path) -> None:
    ask(tmp_path, points=written(tmp_path, POINTS), out=str(tmp_path / "a.nc"))
    with xarray.open_dataset(tmp_path / "a.nc", decode_times=False) as data:
        assert (data.T.attrs["units"], data.x.attrs["units"], data.time.attrs["units"]) == ("K", "m", "s")
        np.testing.assert_allclose(data["T"].values, [3.5, 1.75, 3.5], atol=1e-12)
    ask(tmp_path, times=[0.0, 0.75], resolution=2, out=str(tmp_path / "b.nc"))
    with xarray.open_dataset(tmp_path / "b.nc", decode_times=False) as data:
        assert dict(data.sizes) == {"time": 2, "x": 7, "y": 9}
        assert data.attrs["nu"] == "0.1 m2 s-1"
        at = data["T"].sel(time=0.75, x=0.5, y=1.5)
        np.testing.assert_allclose(at.values, 0.5 + 3 + 0.75, atol=1e-12)
    ask(tmp_path, checkpoint=str(saved(tmp_path, "irregular")), times=1.0, out=str(tmp_path / "c.nc"))
    with xarray.open_dataset(tmp_path / "c.nc", decode_times=False) as data:
        assert data["mesh"].attrs["cf_role"] == "mesh_topology"
        np.testing.assert_allclose(data["w_x"].values[0], data.x.values, atol=1e-10)
        assert data["triangles"].values.max() == data.sizes["node"] - 1


def test_meshio_and_vtk_read_frames(tmp_path: Path) -> None:
    ask(tmp_path, points=written(tmp_path, POINTS), out=str(tmp_path / "a.vtu"))
    found = meshio.read(tmp_path / "a.vtu")
    np.testing.assert_allclose(found.point_data["T"].ravel(), [3.5, 1.75, 3.5], atol=1e-12)
    ask(tmp_path, times=0.5, out=str(tmp_path / "b.vtu"), checkpoint=str(saved(tmp_path, "irregular")))
    found = meshio.read(tmp_path / "b.vtu")
    np.testing.assert_allclose(found.point_data["w"][:, 1], found.points[:, 1], atol=1e-10)
    out = ask(tmp_path, times=[0.0, 0.5, 1.0], out=str(tmp_path / "c.pvd"), resolution=1)
    case: Case = read_pvd(out)
    assert (case.fields["w"].units, case.fields["w"].components, case.units["t"]) == ("m s-1", 2, "s")
    expected = values(torch.from_numpy(case.nodes), 0.5)
    np.testing.assert_allclose(case.read("T", 1, 2)[0, :, 0], expected[:, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["rectangle", "irregular"])
def test_pictures_are_drawn(tmp_path: Path, kind: str) -> None:
    field = str(saved(tmp_path, kind, members=2))
    whole = ask(tmp_path, checkpoint=field, times=[0.0, 1.0], out=str(tmp_path / "a.png"))
    lines = ask(tmp_path, checkpoint=field, points=written(tmp_path, POINTS), out=str(tmp_path / "b.png"))
    for file in (whole, lines):
        assert file.read_bytes()[:4] == b"\x89PNG"
        assert len(file.read_bytes()) > 10_000


def test_times_serve_points_that_have_none(tmp_path: Path) -> None:
    points = written(tmp_path, "x,y\n0.5,1\n0.25,0.5\n")
    out = ask(tmp_path, points=points, times=[1.0, 0.0], out=str(tmp_path / "a.csv"))
    found = [(row["x (m)"], row["t (s)"]) for row in csv.DictReader(out.open())]
    assert found == [("0.5", "1.0"), ("0.25", "1.0"), ("0.5", "0.0"), ("0.25", "0.0")]
    with pytest.raises(UserError, match="no column t"):
        ask(tmp_path, points=points)


def test_points_outside_are_named_by_their_line_or_left_empty(tmp_path: Path) -> None:
    points = written(tmp_path, "x,y,t\n0.5,1,0.5\n0.5,2.5,0.5\n0.5,1,3\n")
    with pytest.raises(UserError, match=r"2 of 3 lie .* of line 3: it lies outside of the domain, at \(0.5, 2.5\)"):
        ask(tmp_path, points=points)
    out = ask(tmp_path, points=points, outside="nan", out=str(tmp_path / "a.csv"))
    assert [row["T (K)"] for row in csv.DictReader(out.open())][1:] == ["nan", "nan"]
    typed = composed("physics", "query", ["checkpoint=given", "outside=nan"])["outside"]
    assert ask(tmp_path, points=points, outside=typed, out=str(tmp_path / "a.csv")).read_text() == out.read_text()
    points = written(tmp_path, "x,y,t\n0.5,1,3\n")
    with pytest.raises(UserError, match=r"line 2: its time 3 is outside of \[0, 1\]"):
        ask(tmp_path, points=points)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,t\n0,0\n", "its columns are x, t"),
        ("x,y,t\n0,a,0\n", "line 2"),
        ("x,y,t\n0,0,0\n0,0\n", "line 3: 2 values for 3 columns"),
        ("x,y,t\n0,nan,0\n", "not finite"),
        ("x,y,t\n", "no points"),
    ],
)
def test_wrong_points_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ask(tmp_path, points=written(tmp_path, text))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"out": "a.txt"}, "ends in"),
        ({"outside": "zero", "points": ""}, "outside=zero"),
        ({"resolution": 0}, "resolution=0"),
        ({"times": [2.0]}, "2 lies outside"),
        ({"times": ["now"]}, "a number or a list"),
        ({"derivatives": ["T:w"], "points": ""}, "derivatives="),
        ({"derivatives": ["T:xxx"], "points": ""}, "twice at most"),
        ({"data": "run.h5"}, "a field is what it is"),
        ({"points": "none.csv"}, "cannot be read"),
        ({"checkpoint": "none.safetensors"}, "cannot be read as a field"),
        ({"checkpoint": "none"}, "checkpoint=none"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    given = {k: written(tmp_path, POINTS) if (k, v) == ("points", "") else v for k, v in given.items()}
    with pytest.raises(UserError, match=told):
        ask(tmp_path, **given)


def test_a_run_starts_the_surrogate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Trained:
        """Stands for an ensemble: notes what it is asked and gives a field that is known."""

        def predict(self, case: Case, times: Any, static: Any, device: str) -> Field:
            asked.update(case=case.name, times=times, static=static, device=device)
            return Field.load(saved(tmp_path))

    monkeypatch.setattr("farfield.apps.physics.ensemble.Ensemble.load", lambda folder: Trained())
    write(square_case(), tmp_path / "run.h5")
    given = {"checkpoint": str(tmp_path), "points": written(tmp_path, POINTS), "out": str(tmp_path / "a.csv")}
    ask(tmp_path, **given, data=str(tmp_path / "run.h5"), static=["nu:0.02"], device="cpu")
    assert asked == {"case": str(tmp_path / "run.h5"), "times": None, "static": {"nu": 0.02}, "device": "cpu"}
    with pytest.raises(UserError, match="data: give the run"):
        ask(tmp_path, **given)
    with pytest.raises(UserError, match="name:number"):
        ask(tmp_path, **given, data=str(tmp_path / "run.h5"), static=["nu"])
    write(square_case(), tmp_path / "run2.h5")
    with pytest.raises(UserError, match="2 runs match"):
        ask(tmp_path, **given, data=str(tmp_path / "run*.h5"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in (".csv", ".nc", ".vtu", ".png"):
        target = tmp_path / f"old{ending}"
        target.write_text("old")

    field = str(saved(tmp_path))

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("farfield.apps.training.atomic.fsync_path", broken)
    for ending in (".csv", ".nc", ".vtu", ".png"):
        with pytest.raises(OSError, match="full"):
            ask(tmp_path, points=written(tmp_path, POINTS), out=str(tmp_path / f"old{ending}"), checkpoint=field)
        assert (tmp_path / f"old{ending}").read_text() == "old"
    assert not list(tmp_path.glob(".tmp-*"))
