"""The verbs train and evaluate as the command line calls them, and the quickstart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farfield.apps.cli.compose import composed
from farfield.apps.physics import hdf5
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.evaluate import evaluate, print_rows, rows_of
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import recipe, settings_of, train
from farfield.apps.training import UserError
from tests.apps.physics.surrogates import MODEL, TRAINER, heat_cases, trained

ROOT = Path(__file__).parents[3]


def words(group: str, values: dict[str, Any]) -> list[str]:
    return [f"{group}.{k}={json.dumps(v)}" for k, v in values.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Runs in files and a network trained on them by the verb."""
    place: Path = tmp_path_factory.mktemp("verbs")
    (place / "cases").mkdir()
    for i, case in enumerate(heat_cases(4)):
        hdf5.write(case, place / "cases" / f"run-{i}.h5")
    (place / "run").mkdir()
    given = [f"data={place}/cases/*.h5", "device=cpu", *words("model", MODEL), *words("trainer", TRAINER)]
    train(run_folder=place / "run", **composed("physics", "train", given))
    return place


def test_train_writes_a_network_and_an_honest_table(folder: Path) -> None:
    ensemble = Ensemble.load(folder / "run")
    assert ensemble.like.static_names == ("diffusivity",)
    assert ensemble.factor is not None
    rows = json.loads((folder / "run" / "scores.json").read_text())
    names = [r["model"] for r in rows]
    assert names == ["GraphSplineNets", "splines afterwards", "persistence"]
    assert all(r["relative_l2"] > 0 for r in rows)
    assert rows[0]["split"] == "valid"


def test_evaluate_tells_several_networks_apart(folder: Path, capsys: Any) -> None:
    (folder / "scores").mkdir()
    Ensemble.load(folder / "run").save(folder / "other" / "model")
    given = [f"checkpoint=[{folder}/run/model,{folder}/other]", f"data={folder}/cases/*.h5", "split=[valid,train]"]
    rows = evaluate(run_folder=folder / "scores", **composed("physics", "evaluate", [*given, "device=cpu"]))
    assert [r["model"] for r in rows[:3]] == ["run", "other", "persistence"]
    assert {r["split"] for r in rows} == {"valid", "train"}
    assert rows[0]["relative_l2"] == pytest.approx(rows[1]["relative_l2"])
    assert json.loads((folder / "scores" / "scores.json").read_text()) == rows
    printed = capsys.readouterr().out
    assert "valid: 1 runs" in printed
    assert "run: errors stay below their estimates at" in printed
    assert 0 <= rows[0]["trust"]["covered_worst"] <= rows[0]["trust"]["covered"] <= 1
    assert rows[2]["trust"] is None
    assert "persistence" in printed


def test_evaluate_judges_a_run_on_its_own_mesh_and_times(folder: Path, capsys: Any) -> None:
    (folder / "elsewhere").mkdir()
    hdf5.write(heat_cases(4, cells=9, frames=19)[3], folder / "elsewhere" / "run.h5")
    given = [f"checkpoint={folder}/run", f"data={folder}/elsewhere/run.h5", "device=cpu"]
    rows = evaluate(run_folder=folder / "elsewhere", **composed("physics", "evaluate", given))
    near = json.loads((folder / "run" / "scores.json").read_text())
    for mine, theirs in zip(rows, (near[0], near[2]), strict=True):
        assert mine["relative_l2"] == pytest.approx(theirs["relative_l2"], rel=0.05)
    assert "1 of 1 runs have meshes of their own" in capsys.readouterr().err


def test_every_network_has_its_own_floor_and_its_whole_name(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs.of(heat_cases(4))
    names = "a-network-of-few-nodes-and-a-long-name", "another-of-more-nodes-and-as-long-a-name"
    few = Ensemble.load(folder / "run")
    more = trained(runs, folder / "more", model={"cells": 4}, trainer={"max_steps": 2, "val_every": 2})
    rows = rows_of(dict(zip(names, (few, more), strict=True)), runs.part("valid"), "cpu", "valid", timed=False)
    assert 0 < rows[1]["floor"] < 0.7 * rows[0]["floor"]
    assert "floor" not in rows[2]
    for columns in (80, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_rows([row | {"trust": None} for row in rows])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        numbers = [line for line in lines if " 64 " in line or " 100 " in line]
        assert all(f" {row['floor']:.3g} " in line for row, line in zip(rows[:2], numbers, strict=True))
        folded = "".join(line[:13].strip() for line in lines) if columns == 40 else ""
        assert columns == 80 or all(name in folded for name in (*names, "persistence"))


def test_evaluate_refuses_what_it_cannot_judge(folder: Path) -> None:
    for changed, text in (
        (["checkpoint=nowhere"], "no trained network is there"),
        (["split=[test]"], "no run is in the split test"),
        (["precision=bf16"], "precision=bf16"),
    ):
        given = [f"checkpoint={folder}/run", f"data={folder}/cases/*.h5", "device=cpu", *changed]
        with pytest.raises(UserError, match=text):
            evaluate(run_folder=folder, **composed("physics", "evaluate", given))


def test_train_refuses_before_it_trains(folder: Path, tmp_path: Path) -> None:
    for changed, text in (
        ([f"data={folder}/none/*.h5"], "no file has that name"),
        (["fields=[v]"], "no field 'v'"),
        (["static=[speed]"], "'speed' is not known"),
        ([f"out={folder}/cases/run-0.h5"], "that is a file"),
        (["dirichlet=[lid]"], "no part 'lid'"),
    ):
        given = [f"data={folder}/cases/*.h5", "device=cpu", *changed]
        with pytest.raises(UserError, match=text):
            train(run_folder=tmp_path, **composed("physics", "train", given))


def test_settings_left_out_are_those_of_the_recipe() -> None:
    assert settings_of({"width": 8}, "model/graphspline") == recipe("model/graphspline") | {"width": 8}
    composed_model = composed("physics", "train", ["data=x", "model=full-resolution"])["model"]
    assert composed_model["space"] == "nodes"
    assert set(composed_model) == set(recipe("model/graphspline"))


@pytest.mark.slow
def test_quickstart_runs_from_nothing_to_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "farfield.apps.physics.quickstart"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("runs/physics/quickstart/*/report.html")
    page = report.read_text()
    assert page.count("data:image/png") == 2
    assert "persistence" in page
    assert "GraphSplineNets" in done.stdout
