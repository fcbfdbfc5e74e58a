"""The commands and the program of the physics README work as they stand there."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from farfield.apps.cli import main
from farfield.apps.physics.case import Field, in_memory
from farfield.apps.physics.vtk_series import write_series
from tests.apps.physics.small import square_case

README = (Path(__file__).parents[3] / "apps" / "physics" / "README.md").read_text()
COMMANDS = [line for line in README.splitlines() if line.startswith("farfield ")]
# What makes a command short enough for a test; the wakes are run in the slow tests alone.
SHORT = {
    "heat": ["equation.cells=[8,8]", "equation.frames=11"],
    "navier-stokes": ["equation.cells=48", "equation.frames=3", "equation.duration=0.1", "equation.modes=2"],
    "heat-domain": ["equation.triangle=0.1", "equation.triangle_at_obstacles=0.05", "equation.frames=3"],
    "channel": [
        "runs=10",
        "equation.triangle=0.1",
        "equation.triangle_at_obstacles=0.03",
        "equation.spin_up=0.0",
        "equation.duration=0.02",
        "equation.frames=3",
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs and a file of winds of one's own."""
    monkeypatch.chdir(tmp_path)
    values = {"u": square_case().read("w"), "p": square_case().read("u")}
    fields = {"u": Field("u", None, 2), "p": Field("p", None)}
    for nu in ("0.01", "0.02"):
        case = replace(square_case(static={}), fields=fields, reader=in_memory(values))
        write_series(case, tmp_path / "my-runs" / f"nu={nu}")
        (tmp_path / "my-runs" / f"nu={nu}" / "case.json").unlink()
    (tmp_path / "tags.csv").write_text("tag,x_min,x_max\ninlet,,0\n")
    with netCDF4.Dataset(tmp_path / "winds.nc", "w") as file:
        axes = {"level": ("hPa", [1000, 850]), "lat": ("degrees_north", [0, 1, 2]), "lon": ("degrees_east", [5, 6])}
        for name, (units, axis) in axes.items():
            file.createDimension(name, len(axis))
            file.createVariable(name, "f8", (name,))[:] = np.array(axis, float)
            file[name].units = units
        file.createVariable("uwnd", "f4", tuple(axes))[:] = 1
        file["uwnd"].units = "m s-1"
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(command)[1:], "--cfg", "job"]) == 0
    assert "seed: 2222" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_and_program_run_one_after_the_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A training and what needs one are the quickstart's.
    commands = [c for c in COMMANDS if c.split()[2] in ("simulate", "describe")]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command)[1:]
        kind = next((w.partition("=")[2] for w in words if w.startswith("equation=")), "")
        assert main([*words, *SHORT.get(kind, [])]) == 0, command
    out = capsys.readouterr().out
    assert out.count(" 0 problems") == 3
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(program, "README", "exec"), {})
    assert capsys.readouterr().out.count("(81, 2) (10, 81, 1)") == 10


def test_every_file_that_the_readme_names_is_there() -> None:
    root = Path(__file__).parents[3]
    for name in re.findall(r"`((?:benchmarks|recipes)/[\w/.]+)`", README):
        assert (root / name).exists(), name
