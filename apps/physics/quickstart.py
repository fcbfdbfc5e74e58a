"""`./run quickstart -- physics`: from a simulation to a surrogate that answers anywhere, and a report."""

from __future__ import annotations

import csv
import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from farfield.apps.cli.compose import Settings, composed
from farfield.apps.physics.evaluate import HEAD, cells_of, print_rows
from farfield.apps.physics.hdf5 import read
from farfield.apps.physics.query import query
from farfield.apps.physics.sampling import sampling_matrix
from farfield.apps.physics.simulate import simulate
from farfield.apps.physics.train import train
from farfield.apps.training import RunFolder
from farfield.apps.training.report import print_table, write_report

SIMULATE = (
    "equation=heat", "runs=24", "sampling=uniform", "equation.diffusivity=[0.05,0.15]", "equation.cells=[24,24]",
    "equation.frames=25", "equation.duration=0.24", "equation.modes=3", "split.valid=0.15",
)  # fmt: skip
TRAIN = (
    "model.cells=3", "model.order=4", "model.stride=6", "model.width=24", "model.blocks=3", "model.members=2",
    "model.levels=1", "model.scale=run", "trainer.batch=8", "trainer.unroll=[1,2]", "trainer.max_steps=450",
    "trainer.lr=4.0e-3", "trainer.val_every=150",
)  # fmt: skip
# Anywhere: neither nodes of the simulation nor of the network, between frames.
POINTS = ((0.31, 0.47, 0.013), (0.31, 0.47, 0.1), (0.62, 0.29, 0.055), (0.5, 0.83, 0.155), (0.77, 0.55, 0.225))


def main() -> None:
    """Simulate, train, query, report."""
    started = time.monotonic()
    run = RunFolder.create("physics", "quickstart")
    print("Heat on a square, 24 runs of different diffusivity and start, exact in time.\n")
    print("1/3  Simulate.")
    cases = run.path / "cases"
    _quiet(simulate, run_folder=_folder(run, "simulate"), **_settings("simulate", *SIMULATE, f"out={cases}"))
    print(f"     {cases}\n\n2/3  Train a surrogate, and one without splines in its loss to compare with.")
    folder = _folder(run, "train")
    checkpoint = _quiet(train, run_folder=folder, **_settings("train", f"data={cases}/*.h5", *TRAIN))
    rows = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    print_rows(rows)
    print("\n3/3  Ask it at places and times of our own, for a run that it has not seen.")
    unseen = _unseen(cases)
    answers = _asked(run, unseen, str(checkpoint))
    head = ("x (m)", "y (m)", "t (s)", "u (K)", "exact (K)", "error it expects (K)")
    print_table(head, answers)
    pictures = {
        "The surrogate's temperature at some of its times (K).": run.path / "query" / "field.png",
        "At three of the points, with the error that the members' spread tells.": run.path / "query" / "points.png",
    }
    report = run.path / "report.html"
    ours, others = rows[0], rows[1:]
    said = [
        "Heat on a square: 24 simulated runs, split by whole runs; errors are of runs that took no part in training.",
        f"The surrogate makes {ours['steps']} steps on {ours['nodes']} nodes; splines give every other place and time."
        f" Its relative error is {ours['relative_l2']:.3g}; {_beside(others)}.",
        "The simulator itself is exact and takes milliseconds for this equation: a surrogate of it is only a lesson."
        " It pays where a run takes minutes or hours.",
    ]
    tables = {"Rollouts of unseen runs": (HEAD, [cells_of(r) for r in rows]), "Answers": (head, answers)}
    write_report(report, "A surrogate of heat on a square", said, tables, pictures)
    print(f"\nReport: {report}")
    print(f"The whole quickstart took {(time.monotonic() - started) / 60:.1f} minutes.")


def _beside(others: list[dict[str, float]]) -> str:
    return ", ".join(f"{r['model']} {r['relative_l2']:.3g}" for r in others)


def _unseen(cases: Path) -> Path:
    with (cases / "runs.csv").open(encoding="utf-8") as lines:
        return next(cases / row["file"] for row in csv.DictReader(lines) if row["split"] == "test")


def _asked(run: RunFolder, unseen: Path, checkpoint: str) -> list[tuple[str, ...]]:
    """Answers at POINTS beside the exact values, and two pictures."""
    folder = _folder(run, "query")
    places = folder / "points.csv"
    places.write_text("x,y,t\n" + "".join(f"{x},{y},{t}\n" for x, y, t in POINTS), encoding="utf-8")
    common = (f"checkpoint={checkpoint}", f"data={unseen}")
    _quiet(query, run_folder=folder, **_settings("query", *common, f"points={places}", f"out={folder}/answers.csv"))
    _quiet(query, run_folder=folder, **_settings("query", *common, f"out={folder}/field.png"))
    _quiet(query, run_folder=folder, **_settings("query", *common, f"points={places}", f"out={folder}/points.png"))
    case = read(unseen)
    asked = np.array(POINTS)
    inside = sampling_matrix(case.nodes, asked[:, :2]).numpy()
    frames = sampling_matrix(case.times[:, None], asked[:, 2:]).numpy()
    exact = np.einsum("qt,tn,qn->q", frames, case.read("u")[..., 0], inside)
    with (folder / "answers.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    found: list[tuple[str, ...]] = []
    for row, (x, y, t), truth in zip(rows, POINTS, exact, strict=True):
        value, error = _column(row, "u"), _column(row, "u error")
        found.append((f"{x:g}", f"{y:g}", f"{t:g}", f"{value:.4f}", f"{truth:.4f}", f"{error:.4f}"))
    return found


def _column(row: dict[str, str], name: str) -> float:
    return float(next(v for k, v in row.items() if k == name or k.startswith(f"{name} (")))


def _settings(verb: str, *words: str) -> Settings:
    return composed("physics", verb, list(words))


def _quiet(verb: object, **settings: object) -> object:
    with redirect_stdout(io.StringIO()):
        return verb(**settings)  # type: ignore[operator]


def _folder(run: RunFolder, name: str) -> Path:
    folder = run.path / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
