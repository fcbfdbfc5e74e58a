"""`farfield physics simulate`: many runs of one equation, each a file of its own."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farfield.apps.physics import hdf5, vtk_series
from farfield.apps.physics.case import Case, Quantity
from farfield.apps.physics.equations import EQUATIONS, Equation
from farfield.apps.physics.equations.settings import Advance
from farfield.apps.physics.progress import progress_bar
from farfield.apps.physics.sweep import Run, plan
from farfield.apps.physics.workers import spread
from farfield.apps.training import Interrupted, RunFolder, UserError, atomic_write
from farfield.apps.training.atomic import remove_leftovers
from farfield.apps.training.signals import terminable

FORMATS = ("hdf5", "vtu")
PLAN = "plan.json"


def simulate(
    *,
    run_folder: Path,
    equation: dict[str, Any],
    runs: int,
    sampling: str,
    split: dict[str, float],
    out: str | None,
    format: str,
    workers: int,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Simulate an equation for every combination or draw of its parameters.

    Args:
        run_folder: Where the run notes its settings.
        equation: Settings of one equation; a list of values of a parameter is run through.
        runs: How many runs; run number i has the same random numbers however many there are.
        sampling: listed, uniform or log: as of `plan`.
        split: Shares of whole runs: valid, test, extrapolate.
        out: Folder of the files; None is cases/ in the run folder.
        format: hdf5 (one file a run) or vtu (one folder a run, for ParaView).
        workers: Processes that share the runs; they give the same files as one.
        device: cpu or auto: the solvers run on the CPU.
        precision: fp64 or fp32, of the fields written; everything is computed in fp64.
        seed: Decides initial conditions, draws and splits.
        resume: Run folder to continue: runs whose file is there are not done again.
    Returns: The folder with the files, runs.csv (parameters, splits, results) and plan.json.
    Raises: UserError: a setting is wrong. Interrupted: Ctrl-C or SIGTERM came; finished runs are on disk.
    """
    for name, value, accepted in (
        ("format", format, FORMATS),
        ("precision", precision, tuple(hdf5.DTYPES)),
        ("device", device, ("auto", "cpu")),
    ):
        if value not in accepted:
            raise UserError(f"{name}={value}: {', '.join(accepted)} are accepted by simulate")
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= 256:
        raise UserError(f"workers={workers}: a whole number from 1 to 256 is accepted")
    settings = dict(equation)
    kind = settings.pop("kind", None)
    if kind not in EQUATIONS:
        raise UserError(f"equation.kind={kind}: {', '.join(EQUATIONS)} are accepted")
    what = EQUATIONS[kind]
    every = plan({name: settings[name] for name in what.swept}, runs, sampling, split, seed)
    target = run_folder / "cases" if out is None else Path(str(out))
    if target.exists() and not target.is_dir():
        raise UserError(f"out={out}: that is a file, a folder is accepted; choose another name")
    target.mkdir(parents=True, exist_ok=True)
    try:
        with RunFolder(target).alone(patience=1.0):
            _check_plan(target, {"equation": equation, "seed": seed, "format": format, "precision": precision}, every)
            remove_leftovers(target)
            _run_all(run_folder, Job(kind, settings, target, format, precision, seed), every, workers)
    except UserError:
        # A mistake that is found before the first run leaves nothing that a corrected command would stumble over.
        if {path.name for path in target.iterdir()} <= {PLAN}:
            (target / PLAN).unlink(missing_ok=True)
            target.rmdir()
        raise
    counts = {name: sum(run.split == name for run in every) for name in ("train", "valid", "test", "extrapolate")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{target}: {len(every)} runs of {kind} ({told}), listed in runs.csv")
    return target


def _check_plan(target: Path, settings: dict[str, Any], runs: list[Run]) -> None:
    """Notes what the folder is for; files of other settings must not be mixed with these."""
    wanted = {**settings, "runs": [{"split": run.split, **run.parameters} for run in runs]}
    text = json.dumps(wanted, indent=1, sort_keys=True) + "\n"
    file = target / PLAN
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{target} holds runs of other settings ({PLAN} in it says which); go on with the same ones, or choose"
                " another folder with out="
            )
        return
    if any(path for path in target.iterdir() if not path.name.startswith(".")):
        raise UserError(f"{target} holds other files; choose a new folder with out=")
    atomic_write(file, text)


def _run_all(run_folder: Path, job: Job, runs: list[Run], workers: int) -> None:
    todo = [run for run in runs if not job.place(run).exists()]
    with terminable(), progress_bar(f"simulate {job.kind}", len(runs), "runs") as at:
        done = len(runs) - len(todo)
        at(done)
        try:
            if workers == 1 or len(todo) < 2:
                for run in todo:
                    job.make(run, lambda share, done=done: at(done + min(share, 0.999)))  # type: ignore[misc]
                    done += 1
                    at(done)
            else:
                for _ in spread(job.make, todo, min(workers, len(todo))):
                    done += 1
                    at(done)
        except KeyboardInterrupt as stop:
            remove_leftovers(job.target)
            signum = stop.args[0] if stop.args else signal.SIGINT
            raise Interrupted(signum, run_folder, done, "run") from None
    results = {run.number: job.results(run) for run in runs}
    _write_table(job.target / "runs.csv", runs, results, EQUATIONS[job.kind], job.format)


@dataclass(frozen=True)
class Job:
    """What every run of a simulation shares; it travels to the processes that share the runs."""

    kind: str
    settings: dict[str, Any]
    target: Path
    format: str
    precision: str
    seed: int

    def place(self, run: Run) -> Path:
        """The file or folder of a run."""
        return self.target / (f"{run.name}.h5" if self.format == "hdf5" else run.name)

    def make(self, run: Run, advance: Advance) -> None:
        """Solves one run and writes it in one step."""
        what = EQUATIONS[self.kind]
        given = self.settings | dict(run.parameters)
        try:
            case = what.solver()(rng=run.generator(self.seed), advance=advance, **given)
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from error
        case = _signed(case, run, what, self.kind, self.settings, self.seed)
        (hdf5.write if self.format == "hdf5" else vtk_series.write_series)(case, self.place(run), self.precision)

    def results(self, run: Run) -> Mapping[str, Quantity]:
        """What a run that is done found out."""
        place = self.place(run)
        return (hdf5.read(place) if self.format == "hdf5" else vtk_series.read_pvd(place / "case.pvd")).results


def _signed(case: Case, run: Run, what: Equation, kind: str, settings: dict[str, Any], seed: int) -> Case:
    """The case with its parameters and where it comes from."""
    static = {
        name: Quantity(float(value), what.swept[name])
        for name, value in run.parameters.items()
        if not isinstance(value, str)
    }
    used = settings | dict(run.parameters)
    origin = {
        "equation": kind,
        "run": str(run.number),
        "split": run.split,
        "seed": str(seed),
        "settings": json.dumps(used, sort_keys=True),
        "digest": hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16],
    }
    return replace(case, name=run.name, static=static, origin=origin)


def _write_table(
    path: Path, runs: list[Run], results: dict[int, Mapping[str, Quantity]], what: Equation, format: str
) -> None:
    """One line a run; units stand in the names of the columns."""
    found = {name: q.units for run in results.values() for name, q in run.items()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = [f"{name} ({unit})" for name, unit in {**what.swept, **found}.items()]
    table.writerow(["run", "file", "split", *head])
    for run in runs:
        file = f"{run.name}.h5" if format == "hdf5" else f"{run.name}/case.pvd"
        outcome = results[run.number]
        values = [outcome[name].value if name in outcome else "" for name in found]
        table.writerow([run.number, file, run.split, *(run.parameters[name] for name in what.swept), *values])
    atomic_write(path, text.getvalue())
