"""The Informer protocol: its windows, its scaler, its verb."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farfield.apps.forecasting.evaluate import evaluate
from farfield.apps.forecasting.informer import borders, calendar_waves, informer_splits, locate, read_columns
from farfield.apps.training.errors import UserError
from tests.golden import ROOT, golden

SERIES = Path(os.environ.get("FARFIELD_DATA", ROOT.parent / "shared" / "data")) / "series"


def real(name: str) -> Path:
    path = SERIES / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{name}.csv.gz is not in FARFIELD_DATA or ../shared/data")
    return path


def test_windows_and_scaler_are_the_official_ones() -> None:
    tensors, facts = golden("spacetime", "informer_windows_etth1")
    splits = informer_splits("ETTh1", read_columns(real("ETTh1"), ["OT"]), facts["lag"], facts["horizon"])
    assert splits.mean == pytest.approx(tensors["scaler.mean"].numpy(), rel=1e-12)
    assert splits.std == pytest.approx(tensors["scaler.std"].numpy(), rel=1e-12)
    for part, windows in (("train", splits.train), ("val", splits.validation), ("test", splits.test)):
        assert len(windows) == facts["n_windows"][part]
        for where, i in (("first", 0), ("last", len(windows) - 1)):
            batch = windows.batch(torch.tensor([i]))
            assert torch.allclose(batch.y[0], tensors[f"{part}.{where}.x"], atol=1e-6)
            assert torch.allclose(batch.future[0], tensors[f"{part}.{where}.y"], atol=1e-6)


def test_borders() -> None:
    assert borders("ETTh1.csv", 17420, 336) == ((0, 8640), (8304, 11520), (11184, 14400))
    assert borders("ETTm2.csv", 69680, 10) == ((0, 34560), (34550, 46080), (46070, 57600))
    assert borders("load.csv", 1000, 50) == ((0, 700), (650, 800), (750, 1000))
    with pytest.raises(UserError, match="14400"):
        borders("ETTh1", 9000, 10)


def write(path: Path, rows: int = 400) -> Path:
    rng = np.random.default_rng(0)
    t = np.arange(rows)
    values = np.sin(2 * np.pi * t / 24) + 0.1 * rng.standard_normal(rows)
    days = np.datetime64("2020-01-01T00:00") + t.astype("timedelta64[h]")
    lines = [f"{str(d).replace('T', ' ')}:00,{v:.6f},{-v:.6f}" for d, v in zip(days, values, strict=True)]
    text = "date,load,mirror\n" + "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_folder": folder,
        "data": str(write(folder / "load.csv")),
        "target": "load",
        "lag": 30,
        "horizon": 6,
        "calendar": 0,
        "season": 24,
        "model": {"model_dim": 8, "kernel_dim": 4, "n_kernels": 2, "max_average": 12, "linear_skip": True},
        "trainer": {"epochs": 2, "batch_size": 64, "lr": 0.01, "skip_lr": 0.0},
        "repeats": 2,
        "checkpoint": None,
        "out": None,
        "device": "cpu",
        "precision": "fp32",
        "seed": 5,
        "resume": None,
        **changes,
    }


def test_the_verb_puts_simple_forecasts_beside_the_network(tmp_path: Path) -> None:
    rows = evaluate(**settings(tmp_path))
    assert list(rows) == [
        "last value",
        "seasonal naive, 24",
        "ridge on lags minus last",
        "SpaceTime, seed 5",
        "SpaceTime, seed 6",
        "SpaceTime, mean of 2",
    ]
    both = [rows["SpaceTime, seed 5"], rows["SpaceTime, seed 6"]]
    assert rows["SpaceTime, mean of 2"].mse == pytest.approx((both[0].mse + both[1].mse) / 2)
    assert rows["ridge on lags minus last"].mse < 0.5 * rows["last value"].mse
    assert both[0].validation_mse <= rows["ridge on lags minus last"].validation_mse * 1.001
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["rows"]["last value"]["mse"] == rows["last value"].mse
    assert written["windows"] == {"train": 245, "validation": 35, "test": 75}
    # What is trained is not trained again, and a checkpoint gives the same row.
    again = evaluate(**settings(tmp_path, trainer={"epochs": 0}))
    assert again["SpaceTime, seed 6"] == rows["SpaceTime, seed 6"]
    loaded = evaluate(**settings(tmp_path, checkpoint=str(tmp_path / "model-6"), out=str(tmp_path / "other.json")))
    assert loaded["SpaceTime, checkpoint"] == rows["SpaceTime, seed 6"]
    assert (tmp_path / "other.json").is_file()


def test_a_calendar_adds_a_row_and_known_covariates(tmp_path: Path) -> None:
    rows = evaluate(**settings(tmp_path, calendar=2, repeats=1, target=["load", "mirror"]))
    assert "ridge with the calendar" in rows
    assert json.loads((tmp_path / "model-5" / "config.json").read_text())["model"]["known"] == 4


def test_waves_come_back_after_a_year(tmp_path: Path) -> None:
    waves = calendar_waves(write(tmp_path / "a.csv.gz", 24 * 366), 2)
    assert waves is not None
    assert waves.shape == (24 * 366, 4)
    assert np.allclose(waves[0], [0, 0, 1, 1])
    assert np.abs(waves[-18] - waves[0]).max() < 0.01
    assert np.allclose(waves[:, 0] ** 2 + waves[:, 2] ** 2, 1)
    assert calendar_waves(tmp_path / "a.csv.gz", 0) is None


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path))
    (tmp_path / "series").mkdir()
    path = write(tmp_path / "series" / "mine.csv")
    assert locate("mine") == path
    with pytest.raises(UserError, match="no such file"):
        locate("other")
    with pytest.raises(UserError, match="it has date, load, mirror"):
        read_columns(path, ["OT"])
    with pytest.raises(UserError, match="no number"):
        read_columns(path, ["date"])
    path.write_text("x,y\n1,2\nsoon,3\n")
    with pytest.raises(UserError, match="no dates"):
        calendar_waves(path, 1)
    for changes, word in (
        ({"repeats": 0}, "repeats=0"),
        ({"trainer": {"epoch": 1}}, "trainer.epoch"),
        ({"model": {"width": 3}}, "model.width"),
        ({"calendar": -1}, "calendar=-1"),
        ({"lag": 300}, "no window"),
    ):
        with pytest.raises(UserError, match=word):
            evaluate(**settings(tmp_path, **changes))
