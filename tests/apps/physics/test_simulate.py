"""Simulations write whole files, go on after kill -9 to the same ones, and say what is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.physics import hdf5
from farfield.apps.physics.case import problems
from farfield.apps.physics.cases import Wanted, open_cases
from farfield.apps.physics.equations import EQUATIONS
from farfield.apps.physics.simulate import simulate
from farfield.apps.training import Interrupted, UserError
from tests.apps.physics.small import settings, simulated

SMALL = ("equation.cells=[8,8]", "equation.frames=3")
# A small run of every equation.
EVERY = {
    "heat": ["equation.cells=[8,8]"],
    "wave": ["equation.cells=[8,8]"],
    "navier-stokes": ["equation.cells=32", "equation.viscosity=[0.01]", "equation.modes=2", "equation.duration=0.1"],
    "burgers": ["equation.cells=64", "equation.viscosity=[0.05]", "equation.duration=0.1"],
    "heat-domain": ["equation.triangle=0.1", "equation.triangle_at_obstacles=0.05"],
    "channel": [
        "equation.triangle=0.1",
        "equation.triangle_at_obstacles=0.03",
        "equation.spin_up=0",
        "equation.duration=0.1",
    ],
}


@pytest.mark.parametrize("kind", EQUATIONS)
def test_every_equation_is_written_with_units_and_can_be_learnt_from(tmp_path: Path, kind: str) -> None:
    out = simulated(tmp_path, f"equation={kind}", "runs=1", "equation.frames=3", *EVERY[kind])
    (case,) = open_cases(str(out / "*.h5"), Wanted())
    assert not problems(case)
    assert case.origin["equation"] == kind
    assert len(case.times) == 3
    for name in case.fields:
        assert np.ptp(case.read(name)) > 0
    assert set(case.static) <= set(EQUATIONS[kind].swept)
    assert all(case.static[name].units == unit for name, unit in EQUATIONS[kind].swept.items() if name in case.static)


def test_a_sweep_makes_a_file_a_run_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("runs=10", "equation.diffusivity=[0.1,0.4]", "equation.amplitude=[1.0,2.0]")
    out = simulated(tmp_path, *words, *SMALL, out=str(tmp_path / "out"))
    assert sorted(p.name for p in out.iterdir()) == ["plan.json", *(f"run-{i:04d}.h5" for i in range(10)), "runs.csv"]
    rows = list(csv.DictReader((out / "runs.csv").open()))
    assert [r["diffusivity (m2 s-1)"] for r in rows][:4] == ["0.1", "0.1", "0.4", "0.4"]
    assert [r["split"] for r in rows].count("test") == 2
    for row in rows:
        case = hdf5.read(out / row["file"])
        assert case.static["diffusivity"].value == float(row["diffusivity (m2 s-1)"])
        assert case.origin["split"] == row["split"]
        assert np.abs(case.read("u", 0, 1)).max() == pytest.approx(float(row["amplitude (K)"]))
    assert "10 runs of heat (7 train, 1 valid, 2 test)" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path: Path) -> None:
    one, two, other = (
        simulated(tmp_path / name, "runs=2", f"seed={seed}", *SMALL) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    files = [[hdf5.read(out / f"run-000{i}.h5").read("u") for i in range(2)] for out in (one, two, other)]
    assert all((a == b).all() for a, b in zip(files[0], files[1], strict=True))
    assert not any((a == b).all() for a, b in zip(files[0], files[2], strict=True))
    assert (files[0][0] != files[0][1]).any()


def test_results_of_a_run_stand_in_the_table(tmp_path: Path) -> None:
    out = simulated(tmp_path, "equation=wave", "runs=1", "equation.damping=[0]", *SMALL)
    (row,) = csv.DictReader((out / "runs.csv").open())
    assert float(row["energy_drift (1)"]) < 1e-12


def test_a_vtu_series_holds_the_same(tmp_path: Path) -> None:
    words = ("equation=navier-stokes", "runs=1", *EVERY["navier-stokes"], "equation.frames=3")
    h5 = open_cases(str(simulated(tmp_path / "a", *words) / "*.h5"), Wanted())[0]
    vtu = open_cases(str(simulated(tmp_path / "b", *words, format="vtu") / "*" / "case.pvd"), Wanted())[0]
    assert (h5.nodes == vtu.nodes).all()
    assert all((h5.read(name) == vtu.read(name)).all() for name in h5.fields)
    assert h5.static == vtu.static
    assert (h5.period, h5.units) == (vtu.period, vtu.units)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_simulation_goes_on_to_the_same_files(tmp_path: Path, workers: int) -> None:
    words = ["runs=6", "equation=navier-stokes", "equation.frames=11", "equation.cells=48", "equation.modes=2"]
    given = settings("simulate", *words)
    cut = given | {"workers": workers}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    simulate(run_folder=tmp_path / "whole", **given)
    program = (
        "import json, sys; from pathlib import Path; from farfield.apps.physics.simulate import simulate;"
        "simulate(run_folder=Path(sys.argv[1]), **json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cut"), json.dumps(cut)]
    # Not the coverage or hooks of this process: a plain child that dies in the middle of its second run.
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ".typing"}, stderr=subprocess.DEVNULL)
    cases = tmp_path / "cut" / "cases"
    while len(list(cases.glob("run-*.h5"))) < 2:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = {p.name: p.stat().st_mtime_ns for p in cases.glob("run-*.h5")}
    assert 2 <= len(done) < 6
    (cases / ".tmp-run-0004.h5-x").write_text("half")
    simulate(run_folder=tmp_path / "cut", **(cut | {"resume": str(tmp_path / "cut")}))
    assert all((cases / name).stat().st_mtime_ns == stamp for name, stamp in done.items()), "finished runs stay"
    for path in sorted((tmp_path / "whole" / "cases").iterdir()):
        twin = cases / path.name
        if path.suffix == ".h5":
            assert (hdf5.read(path).read("u") == hdf5.read(twin).read("u")).all()
        else:
            assert path.read_bytes() == twin.read_bytes()
    assert len(list(cases.iterdir())) == 8


@pytest.mark.slow
def test_processes_that_share_the_runs_write_the_same_files(tmp_path: Path) -> None:
    one = simulated(tmp_path / "a", "runs=5", *SMALL)
    two = simulated(tmp_path / "b", "runs=5", *SMALL, workers=2)
    for path in one.glob("*.h5"):
        assert (hdf5.read(path).read("u") == hdf5.read(two / path.name).read("u")).all()
    assert (one / "runs.csv").read_bytes() == (two / "runs.csv").read_bytes()
    with pytest.raises(UserError, match=r"equation\.modes=99"):
        simulated(tmp_path / "c", "runs=3", "equation.modes=99", *SMALL, workers=2)


def test_ctrl_c_names_the_runs_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = hdf5.write, []

    def write(*args: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(real(*args))  # type: ignore[arg-type]

    monkeypatch.setattr(hdf5, "write", write)
    with pytest.raises(Interrupted, match="after run 2; continue with resume="):
        simulated(tmp_path, "runs=4", *SMALL)
    monkeypatch.setattr(hdf5, "write", real)
    assert len(list(simulated(tmp_path, "runs=4", *SMALL).glob("*.h5"))) == 4


def test_files_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    out = simulated(tmp_path, "runs=2", *SMALL, out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="other settings"):
        simulated(tmp_path, "runs=3", *SMALL, out=str(out))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        simulated(tmp_path, "runs=2", *SMALL, out=str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": "csv"}, "hdf5, vtu"),
        ({"precision": "bf16"}, "fp32, fp64"),
        ({"device": "cuda"}, "auto, cpu"),
        ({"runs": 0}, "runs=0"),
        ({"workers": 0}, "from 1 to 256"),
        ({"equation": {"kind": "euler"}}, "heat, wave"),
    ],
)
def test_a_wrong_setting_leaves_nothing_behind(tmp_path: Path, values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        simulated(tmp_path, *SMALL, **values)
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_the_equation_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"equation\.modes=99"):
        simulated(tmp_path, "equation.modes=99", *SMALL)
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_solved_is_named_and_the_others_stay(tmp_path: Path) -> None:
    words = ("equation=burgers", "runs=3", "equation.cells=64", "equation.viscosity=[0.05,1.0e-5]", "equation.frames=3")
    with pytest.raises(UserError, match=r"run-0001: equation\.cells=64: the shocks"):
        simulated(tmp_path, *words)
    assert (tmp_path / "cases" / "run-0000.h5").exists()
