"""`describe` prints fields, units, steps, ranges and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.apps.physics import hdf5
from farfield.apps.physics.case import Field, in_memory
from farfield.apps.physics.describe import describe
from farfield.apps.training import UserError
from tests.apps.physics.small import settings, square_case


def run(folder: Path, data: Any, **values: Any) -> dict[str, Any]:
    return describe(run_folder=folder, **(settings("describe") | {"data": data} | values))


def test_ranges_are_those_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        u = square_case().read("u") + i
        fields = {"u": Field("u", "K")}
        hdf5.write(square_case(fields=fields, reader=in_memory({"u": u})), tmp_path / f"{i}.h5")
    found = run(tmp_path, str(tmp_path / "*.h5"))
    assert found["fields"]["u"] == {
        "units": "K", "components": 1, "min": 0.0, "mean": pytest.approx(3.0), "max": 6.0, "missing": 0, "values": 225,
    }  # fmt: skip
    assert found["runs"] == 3
    assert found["splits"] == {"test": 3}
    assert found["times"] == {
        "frames": [3, 3],
        "first": 0.0,
        "last": 1.0,
        "step": [0.5, 0.5],
        "even": True,
        "units": "s",
    }
    assert found["static"]["nu"] == {"units": "m2 s-1", "min": 0.01, "max": 0.01, "distinct": 1}
    assert found["boundary"] == {"left": [5, 5]}
    assert found["mesh"]["cells"] == {"quad": [16, 16]}
    assert found["problems"] == []
    assert json.loads((tmp_path / "description.json").read_text()) == json.loads(json.dumps(found))
    out = capsys.readouterr().out
    assert "3 frames from 0 to 1 s, step 0.5" in out
    assert "3 runs, 0 problems" in out


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    u = square_case().read("u").copy()
    u[1, 3] = np.nan
    cells = square_case().cells["quad"].copy()
    cells[2] = cells[2, ::-1]
    changes: dict[str, Any] = {
        "fields": {"u": Field("u", None)},
        "reader": in_memory({"u": u}),
        "cells": {"quad": cells},
    }
    hdf5.write(square_case(**changes), tmp_path / "a.h5")
    hdf5.write(square_case(5), tmp_path / "b.h5")
    found = run(tmp_path, [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")])
    said = "\n".join(found["problems"])
    for part in (
        "no units of u",
        "1 of 16 quad cells are inverted",
        "not every run has the field w",
        "u: 1 values (0.55%)",
    ):
        assert part in said
    assert found["fields"]["u"]["missing"] == 1
    assert found["mesh"]["meshes"] == "different"
    assert "problem: " in capsys.readouterr().out


def test_a_large_field_is_looked_at_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5.write(square_case(frames=20), tmp_path / "a.h5")
    monkeypatch.setattr("farfield.apps.physics.case.CHUNK", 1)
    monkeypatch.setattr("farfield.apps.physics.case.Case.chunks.__defaults__", (1,))
    assert run(tmp_path, str(tmp_path / "a.h5"))["fields"]["u"]["max"] == 4.0


def test_uneven_steps_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hdf5.write(square_case(times=np.array([0.0, 0.1, 1.0])), tmp_path / "a.h5")
    assert run(tmp_path, str(tmp_path / "a.h5"))["times"]["even"] is False
    assert "uneven steps, 0.1 to 0.9" in capsys.readouterr().out


def test_nothing_to_describe_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file has that name"):
        run(tmp_path, str(tmp_path / "*.h5"))
