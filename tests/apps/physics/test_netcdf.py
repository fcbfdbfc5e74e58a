"""CF NetCDF: calendars, longitudes that wrap around, land, levels, files larger than memory, and real ones."""

from __future__ import annotations

import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from farfield.apps.physics.case import graph_edges, problems
from farfield.apps.physics.cases import Wanted, described, open_cases
from farfield.apps.physics.netcdf import read
from farfield.apps.training import UserError

DAY = 86400.0


def write(
    path: Path,
    lon: Any,
    lat: Any,
    time: Any = (0, 1, 2),
    units: str = "days since 2000-02-28",
    calendar: str = "standard",
    values: Any = None,
    level: Any = None,
) -> Path:
    """sst(time, [level,] lat, lon) = lon + 2 lat + 100 time (+ 1000 level number)."""
    with netCDF4.Dataset(path, "w") as file:
        names = {"time": time, "lat": lat, "lon": lon} | ({"level": level} if level is not None else {})
        about = {
            "time": {"units": units, "calendar": calendar},
            "lat": {"units": "degrees_north"},
            "lon": {"units": "degrees_east"},
            "level": {"units": "hPa"},
        }
        for name, axis in names.items():
            file.createDimension(name, len(axis))
            file.createVariable(name, "f8", (name,))[:] = np.asarray(axis, float)
            file[name].setncatts(about[name])
        dims = ("time", "level", "lat", "lon") if level is not None else ("time", "lat", "lon")
        variable = file.createVariable("sst", "f4", dims, fill_value=-999.0, zlib=True)
        variable.setncatts({"units": "degC", "long_name": "sea surface temperature"})
        t, y, x = np.meshgrid(time, lat, lon, indexing="ij")
        full = x + 2 * y + 100 * t if values is None else values
        variable[:] = full if level is None else full[:, None] + 1000 * np.arange(len(level))[None, :, None, None]
    return path


def test_a_regular_grid_keeps_its_places_and_units(tmp_path: Path) -> None:
    case = read(write(tmp_path / "a.nc", [10, 12, 14], [50, 45]), None, {})
    x, y = case.nodes.T
    assert np.abs(case.read("sst")[..., 0] - (x + 2 * y + 100 * case.times[:, None] / DAY)).max() < 1e-4
    assert case.times.tolist() == [0, DAY, 2 * DAY]
    assert (case.fields["sst"].units, case.units) == ("degC", {"x": "degree", "t": "s"})
    assert case.origin["first_time"].startswith("2000-02-28")
    assert case.period == (None, None)
    (checked,) = open_cases(str(tmp_path / "a.nc"), Wanted())
    assert not problems(checked)


@pytest.mark.parametrize(
    ("units", "calendar", "times", "expected"),
    [
        ("hours since 1900-01-01", "noleap", [0, 6], [0, 21600]),
        ("days since 0001-01-01", "proleptic_gregorian", [5, 7.5], [0, 2.5 * DAY]),
        ("months since 1970-01-01", "360_day", [0, 2], [0, 60 * DAY]),
        ("seconds since 2000-01-01 12:00:00", "julian", [10, 20], [0, 10]),
        ("hour since 0000-01-01 00:00:00", "standard", [366, 1096.485], [0, 730.485 * 3600]),
    ],
)
def test_calendars_give_seconds(
    tmp_path: Path, units: str, calendar: str, times: list[float], expected: list[float]
) -> None:
    case = read(write(tmp_path / "a.nc", [0, 1], [0, 1], times, units, calendar), None, {})
    assert case.times.tolist() == pytest.approx(expected)
    assert case.origin["calendar"] == calendar


@pytest.mark.parametrize(
    ("units", "calendar", "said"),
    [
        ("months since 1970-01-01", "standard", "no fixed length"),
        ("fortnights since 1970-01-01", "standard", "no fixed length"),
        ("days since 1970-01-01", "mayan", "not known"),
    ],
)
def test_times_without_a_length_are_refused(tmp_path: Path, units: str, calendar: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(write(tmp_path / "a.nc", [0, 1], [0, 1], (0, 1, 2), units, calendar), None, {})


def test_unsorted_times_are_sorted_and_a_time_twice_is_refused(tmp_path: Path) -> None:
    case = read(write(tmp_path / "a.nc", [0, 1], [0, 1], (3, 1, 2)), None, {})
    assert case.times.tolist() == [0, DAY, 2 * DAY]
    assert case.read("sst")[:, 0, 0].tolist() == [100, 200, 300]
    assert case.read("sst", 1, 3)[:, 0, 0].tolist() == [200, 300]
    assert "were sorted" in case.notes[0]
    with pytest.raises(UserError, match="comes twice"):
        read(write(tmp_path / "b.nc", [0, 1], [0, 1], (1, 2, 1)), None, {})


@pytest.mark.parametrize(
    "lon",
    [np.arange(0, 360, 30), np.arange(-180, 180, 30), np.roll(np.arange(0, 360, 30), 5), np.arange(0, 361, 30)],
)
def test_longitudes_that_go_round_wrap_around(tmp_path: Path, lon: Any) -> None:
    case = read(write(tmp_path / "a.nc", lon, [-20, 0, 20]), None, {})
    assert case.period == (360.0, None)
    x, y = case.nodes.T
    assert np.unique(np.diff(np.unique(x))).tolist() == [30]
    found = case.read("sst")[0, :, 0] - 2 * y
    assert np.abs((found - x + 180) % 360 - 180).max() < 1e-4
    assert np.ptp(case.nodes[case.cells["quad"]][..., 0], axis=1).max() == 30, "no cell crosses the seam"
    assert len(graph_edges(case)) == 12 * 3 + 12 * 2


def test_land_is_left_out_and_its_coast_is_a_part_of_the_boundary(tmp_path: Path) -> None:
    values = np.ones((3, 5, 6))
    values[:, 1:3, 2] = np.nan
    case = read(write(tmp_path / "a.nc", np.arange(6), np.arange(5), values=np.ma.masked_invalid(values)), None, {})
    assert len(case.nodes) == 28
    assert np.isfinite(case.read("sst")).all()
    assert "2 of 30 nodes (7%)" in case.notes[0]
    assert len(case.boundary["coast"]) == 10
    (whole,) = open_cases(str(tmp_path / "a.nc"), Wanted())
    assert len(whole.nodes) == 27, "a node whose every cell touched land goes too"


def test_a_value_missing_now_and_then_is_refused_or_its_node_dropped(tmp_path: Path) -> None:
    values = np.ones((3, 3, 4))
    values[1, 1, 2] = np.nan
    path = str(write(tmp_path / "a.nc", np.arange(4), np.arange(3), values=np.ma.masked_invalid(values)))
    (case,) = open_cases(path, Wanted())
    assert case.read("sst", 0, 1).shape == (1, 12, 1)
    with pytest.raises(UserError, match=r"1 of 12 nodes, first at time 86400, node 6 \(2, 1\); missing=drop"):
        case.read("sst")
    (dropped,) = open_cases(path, Wanted(missing="drop"))
    assert dropped.read("sst").shape == (3, 11, 1)


def test_a_further_dimension_needs_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", [0, 1], [0, 1], level=[1000, 850, 500])
    with pytest.raises(UserError, match=r"3 values \(1000, 850, 500\); choose one: select=\[level:1000\]"):
        read(path, None, {})
    case = read(path, None, {"level": 840.0})
    assert case.read("sst")[0, 0, 0] == 1000
    assert (case.static["level"].value, case.static["level"].units) == (850, "hPa")


def test_a_file_larger_than_memory_is_read_chunk_by_chunk(tmp_path: Path) -> None:
    """400 frames of 40,000 nodes are 128 MB as float64; one chunk at a time takes a small part of that."""
    path = tmp_path / "a.nc"
    write(path, np.arange(200) / 10, np.arange(200) / 10, np.arange(400), values=np.zeros((400, 200, 200)))
    case = read(path, None, {})
    tracemalloc.start()
    frames = sum(len(values) for _, values in case.chunks("sst", limit=4_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == 400
    assert peak < 32_000_000


def test_positions_in_a_list_have_no_cells(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("station", 7)
        for name, units in (("lon", "degrees_east"), ("lat", "degrees_north"), ("rain", "mm")):
            file.createVariable(name, "f8", ("station",))[:] = np.arange(7.0)
            file[name].units = units
    case = read(tmp_path / "a.nc", ["rain"], {})
    assert case.nodes.shape == (7, 2)
    assert case.cells == {}
    assert case.read("rain").shape == (1, 7, 1)


def test_files_without_a_grid_are_named(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("n", 3)
        file.createVariable("v", "f8", ("n",))[:] = 1
    with pytest.raises(UserError, match="no variable lies on a grid"):
        read(tmp_path / "a.nc", None, {})
    with pytest.raises(UserError, match="no longitude or x that says so"):
        read(tmp_path / "a.nc", ["v"], {})
    with pytest.raises(UserError, match="no variable 'w'; it has v"):
        read(tmp_path / "a.nc", ["w"], {})
    (tmp_path / "b.nc").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as NetCDF"):
        described(str(tmp_path / "b.nc"), Wanted())


SAMPLES = find_spec("iris_sample_data")
FERRET = Path("/usr/share/ferret-vis/data")


@pytest.mark.skipif(SAMPLES is None, reason="real data: the package iris-sample-data is not installed")
def test_a_real_ocean_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Monthly OSTIA sea surface temperatures round the equator: land, a seam, a calendar."""
    assert SAMPLES is not None
    assert SAMPLES.submodule_search_locations is not None
    path = Path(next(iter(SAMPLES.submodule_search_locations))) / "sample_data" / "ostia_monthly.nc"
    with pytest.raises(UserError, match="falls into 10 pieces"):
        open_cases(str(path), Wanted())
    (case,) = open_cases(str(path), Wanted(parts="largest"))
    assert (case.times.size, case.period) == (54, (360.0, None))
    assert case.origin["first_time"].startswith("2006-04-16")
    for _, values in case.chunks("surface_temperature"):
        assert 280 < values.min() < values.max() < 310
    assert len(case.boundary["coast"]) > 100


@pytest.mark.skipif(SAMPLES is None, reason="real data: the package iris-sample-data is not installed")
def test_a_real_curvilinear_ocean_is_read() -> None:
    assert SAMPLES is not None
    assert SAMPLES.submodule_search_locations is not None
    path = Path(next(iter(SAMPLES.submodule_search_locations))) / "sample_data" / "orca2_votemper.nc"
    (case,) = open_cases(str(path), Wanted(parts="largest"))
    assert len(case.nodes) > 15_000
    assert -3 < case.read("votemper").min() < case.read("votemper").max() < 35


@pytest.mark.skipif(not FERRET.is_dir(), reason="real data: the Debian package ferret-datasets is not installed")
def test_real_winds_are_read() -> None:
    (case,) = open_cases(str(FERRET / "monthly_navy_winds.cdf"), Wanted(fields=["UWND", "VWND"]))
    assert case.read("UWND", 0, 1).shape == (1, 73 * 144, 1)
    assert case.period == (360.0, None)
