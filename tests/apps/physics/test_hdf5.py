"""Our files hold what was written, with units; others are named."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from farfield.apps.physics.hdf5 import read, write
from farfield.apps.training import UserError
from tests.apps.physics.small import same, solve, square_case


def test_a_case_comes_back_whole(tmp_path: Path) -> None:
    write(square_case(), tmp_path / "a.h5")
    back = read(tmp_path / "a.h5")
    same(square_case(), back)
    assert back.origin == {"split": "test"}
    assert back.fields["u"].long_name == "temperature"
    assert back.reader("u", np.array([2, 0]))[:, 0, 0].tolist() == [1.0, 0.0]


def test_single_precision_is_stored_as_such(tmp_path: Path) -> None:
    case = solve("burgers", cells=64, viscosity=0.05, frames=3)
    write(case, tmp_path / "a.h5", "fp32")
    assert h5py.File(tmp_path / "a.h5")["fields/u"].dtype == np.float32
    same(case, read(tmp_path / "a.h5"), tolerance=1e-7)


def test_missing_units_stay_missing(tmp_path: Path) -> None:
    case = square_case(units={"x": None, "t": "s"}, static={})
    write(case, tmp_path / "a.h5")
    assert read(tmp_path / "a.h5").units == {"x": None, "t": "s"}


def test_frames_are_read_one_by_one(tmp_path: Path) -> None:
    write(square_case(frames=50), tmp_path / "a.h5")
    file = h5py.File(tmp_path / "a.h5")["fields/u"]
    assert file.chunks == (1, 25, 1)
    assert read(tmp_path / "a.h5").read("u", 49).shape == (1, 25, 1)


def test_files_of_others_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(UserError, match="another kind"):
        read(tmp_path / "other.h5")
    write(square_case(), tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[:2000])
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        read(tmp_path / "cut.h5")
    with pytest.raises(UserError, match="no field 'q'"):
        read(tmp_path / "a.h5").read("q")
