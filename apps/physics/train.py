"""`farfield physics train`: a surrogate of simulations, with what it is worth beside simple rows."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farfield.apps.physics.cases import Wanted, open_cases
from farfield.apps.physics.clock import clock_of, curve_matrix
from farfield.apps.physics.ensemble import Ensemble, network_of
from farfield.apps.physics.evaluate import print_rows, rows_of
from farfield.apps.physics.learning import Learning, Numbers, Stage
from farfield.apps.physics.places import places_of
from farfield.apps.physics.prepared import Prepared, prepare, scales_of
from farfield.apps.physics.residual import Residual
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.symmetry import SYMMETRIES, seen
from farfield.apps.training import TrainerConfig, UserError, atomic_write, fit
from farfield.apps.training.checkpoint import read_weights
from farfield.apps.training.device import resolve_device
from farfield.apps.training.manifest import read_about
from farfield.apps.training.rng import seed_all
from farfield.apps.training.trainer import parse_budget

# Settings of trainer/ that are not TrainerConfig's.
OURS = (
    "optimizer", "lr", "weight_decay", "warmup_fraction", "lr_min_ratio", "batch", "unroll", "nodes_first",
    "nodes_weight", "noise", "symmetries", "residual", "clip", "recorded",
)  # fmt: skip
CHOICES = {"space": ("splines", "nodes"), "loss": ("fields", "nodes"), "adapt_by": ("curvature", "spread")}
OPTIMIZERS = ("muon", "adamw")
# Share of steps and time for the first training, where the spread of its members tells where cells pay.
FIRST = 0.25
# Steps of each stage that are timed where a budget, not a number of steps, is given, and the schedule they are weighed
# by; the share of the budget for steps, the rest is for validations; where a resumed run finds the number.
TIMED, SCHEDULE, SPENT, STEPS = 6, 1000, 0.95, "steps.json"


def train(
    *,
    run_folder: Path,
    data: str | list[str],
    fields: list[str] | None,
    static: list[str] | None,
    inputs: list[str],
    dirichlet: list[str] | None,
    units: list[str],
    boundary: str | None,
    select: list[str],
    parts: str,
    missing: str,
    compare: bool,
    out: str | None,
    model: dict[str, Any],
    trainer: dict[str, Any],
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
    budget: str | float | None,
) -> Path:
    """Train an ensemble on runs, judge it on those it has not seen, write it.

    Args:
        run_folder: Where checkpoints, metrics and the table go.
        data: A path, a pattern or a list of them, one run a file.
        fields, static, inputs, dirichlet: As of `Runs.of`.
        units, boundary, select, parts, missing: As of `Wanted`.
        compare: Whether the same network without the splines in its loss is trained too, for as many steps.
        out: Folder for the trained ensemble; None is `model` in the run folder.
        model: Settings of recipes/physics/model/. trainer: Of recipes/physics/trainer/, and of `TrainerConfig`.
        device: auto, cpu or cuda. precision: fp32 or bf16.
        seed: Of weights, windows and noise; member k has seed + k.
        resume: Run folder to continue.
        budget: Wall time after which the run ends with a checkpoint.
    Returns: The folder written.
    Raises: UserError: data or settings are wrong. Interrupted: a signal came; the checkpoint is written.
    """
    target = run_folder / "model" if out is None else Path(str(out))
    if target.is_file():
        raise UserError(f"out={out}: that is a file, a folder is accepted")
    taken = None if fields is None else [*fields, *inputs]
    cases = open_cases(data, Wanted.of(taken, static, units, boundary, select, parts, missing))
    runs = Runs.of(cases, fields, static, inputs, dirichlet, seed=seed)
    for note in runs.notes:
        print(note, file=sys.stderr)
    if runs.dirichlet:
        print(f"values known beforehand on: {', '.join(runs.dirichlet)}", file=sys.stderr)

    def trained(folder: Path, settings: dict[str, Any]) -> Ensemble:
        return train_runs(
            runs,
            run_folder=folder,
            model=settings,
            trainer=trainer,
            device=device,
            precision=precision,
            seed=seed,
            budget=budget,
            resume=resume is not None and (folder / "checkpoints").is_dir(),
            progress=True,
        )

    ensemble = trained(run_folder, model)
    ensemble.save(target)
    every = {"GraphSplineNets": ensemble}
    if compare and model["space"] == "splines" and model["loss"] == "fields":
        print("for comparison, the same network trained at its nodes alone:", file=sys.stderr)
        every["splines afterwards"] = trained(run_folder / "post-hoc", model | {"loss": "nodes"})
    split = next((s for s in ("test", "valid", "train") if runs.has(s)), "train")
    rows = rows_of(every, runs.part(split), device, split, timed=True)
    atomic_write(run_folder / "scores.json", json.dumps(rows, indent=1) + "\n")
    print_rows(rows)
    print(f"{target}: {ensemble.nodes} nodes, {ensemble.steps} steps a rollout, {ensemble.members_count} members")
    return target


@cache
def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe of this domain, model/graphspline or trainer/default."""
    import yaml  # type: ignore[import-untyped, unused-ignore]

    text = files("farfield.recipes.physics").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def settings_of(given: Mapping[str, Any], default: str, also: Sequence[str] = ()) -> dict[str, Any]:
    """Settings with those left out filled in from a recipe.

    Raises: UserError: an unknown one.
    """
    known = recipe(default)
    if unknown := sorted(set(given) - set(known) - set(also)):
        group = default.partition("/")[0]
        raise UserError(f"{group}.{unknown[0]}: no such setting; accepted: {', '.join(sorted({*known, *also}))}")
    return known | dict(given)


def train_runs(
    runs: Runs,
    *,
    run_folder: Path,
    model: Mapping[str, Any],
    trainer: Mapping[str, Any],
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    budget: str | float | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Ensemble:
    """Train on the runs' train split; the valid split chooses the checkpoint and calibrates the error.

    Args:
        model, trainer: Settings; those left out are those of model/graphspline and trainer/default.
            max_steps: None takes as many steps as fit into the budget, by timing the first few.
        Others: As of `train`.
    """
    chosen = settings_of(model, "model/graphspline")
    settings = settings_of(trainer, "trainer/default", tuple(TrainerConfig.__dataclass_fields__))
    _check(chosen, settings, precision)
    on = resolve_device(device)
    learnt = runs.part("train")
    clock = clock_of(learnt, chosen)
    spread = None
    if chosen["adapt_space"] and chosen["adapt_by"] == "spread":
        spread = _first_spread(learnt, run_folder, chosen, trainer, device, precision, seed, budget, resume)
        seconds = parse_budget(budget)
        budget = None if seconds is None else (1 - FIRST) * seconds
    places, graph = places_of(learnt, chosen, learnt, spread)
    scales = scales_of(learnt, places, clock, chosen["scale"] == "run")
    seed_all(seed)
    net = network_of(chosen, graph, places, scales, learnt, seed)
    like = learnt.take([])
    ensemble = Ensemble(net, places, clock, scales, like, chosen)
    valid = runs.part("valid") if runs.has("valid") else None
    residual = float(settings["residual"])

    def coarse(some: Runs) -> Prepared:
        return prepare(some, places, scales, chosen, on)

    symmetries = settings["symmetries"]
    prepared = seen(coarse, learnt, places.nodes, places.held, symmetries) if symmetries else coarse(learnt)
    curve = torch.from_numpy(curve_matrix(clock, clock.knots, runs.times)).float()

    steps = settings["max_steps"]
    began = time.monotonic()
    learning = Learning(
        net,
        prepared,
        None if valid is None else coarse(valid),
        clock,
        settings,
        max_steps=steps or SCHEDULE,
        seed=seed,
        precision=precision,
        nodes_first=1.0 if chosen["loss"] == "nodes" else float(settings["nodes_first"]),
        curve=curve.to(on),
        expand=None if places.expand is None else places.expand.to(on),
        truth=None if valid is None else scales.fields(valid.values).to(on),
        known=torch.from_numpy(runs.held).to(on),
        residual=Residual(residual, learnt, places, scales, on) if residual else None,
    )
    if steps is None:
        seconds = parse_budget(budget)
        if seconds is None:
            raise UserError("trainer.max_steps=null needs a budget, for example budget=60s")
        kept = run_folder / STEPS
        if resume and kept.is_file():
            steps, every = json.loads(kept.read_text(encoding="utf-8"))
        else:
            with tensor_cores():
                steps = _fitting(learning, seconds, on)
            # The last step is one that is validated.
            every = steps // max(1, round(steps / (settings["val_every"] or steps)))
            steps -= steps % every
            atomic_write(kept, f"[{steps}, {every}]\n")
        settings["val_every"] = every if settings["val_every"] else 0
        budget, learning.max_steps = None, steps
    config = TrainerConfig(
        run_folder=run_folder,
        device=device,
        seed=seed,
        resume=resume,
        budget=budget,
        progress=progress,
        max_steps=steps,
        monitor="val/relative_l2" if valid is not None and settings["val_every"] else None,
        deterministic=on.type == "cpu",
        **{k: v for k, v in settings.items() if k not in (*OURS, "max_steps")},
    )
    if progress:
        count = sum(p.numel() for p in net.parameters()) // chosen["members"]
        print(
            f"{len(learnt)} runs to learn from; {places.count} nodes of {len(runs.nodes):,}, {clock.steps} steps for"
            f" {len(runs.times)} frames; {chosen['members']} networks of {count:,} parameters",
            file=sys.stderr,
        )
    with tensor_cores():
        run = fit(learning, Numbers(valid is not None), config)
    best = run.best_checkpoint() or run.last_checkpoint()
    about: dict[str, Any] = {"train_seconds": time.monotonic() - began, "seed": seed, "max_steps": steps}
    if best is not None:
        learning.load_state_dict(read_weights(best))
        about |= {"step": read_about(best).step, "valid": read_about(best).value}
    ensemble.about = about
    net.to_device(torch.device("cpu"))
    net.eval()
    if valid is not None and chosen["members"] > 1:
        _calibrate(ensemble, valid, device)
    return ensemble


@contextmanager
def tensor_cores() -> Iterator[None]:
    """Products in fp32 with factors rounded to TF32, where a GPU has it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _first_spread(
    learnt: Runs,
    run_folder: Path,
    model: Mapping[str, Any],
    trainer: Mapping[str, Any],
    device: str,
    precision: str,
    seed: int,
    budget: str | float | None,
    resume: bool,
) -> torch.Tensor:
    """Where members of a first, shorter training on even places differ over the training runs, (R, T, N, C).

    Raises: UserError: there is one member, or there are no splines in space.
    """
    if model["members"] < 2 or model["space"] != "splines":
        raise UserError("model.adapt_by=spread needs model.members of 2 or more and model.space=splines")
    folder = run_folder / "first"
    if resume and (folder / "model").is_dir():
        return Ensemble.load(folder / "model").members(learnt, device).std(0)
    steps = settings_of(trainer, "trainer/default", tuple(TrainerConfig.__dataclass_fields__))["max_steps"]
    seconds = parse_budget(budget)
    first = train_runs(
        learnt,
        run_folder=folder,
        model=dict(model) | {"adapt_space": False, "loss": "fields"},
        trainer=dict(trainer) | {"max_steps": None if steps is None else max(1, int(FIRST * steps))},
        device=device,
        precision=precision,
        seed=seed,
        budget=None if seconds is None else FIRST * seconds,
        resume=resume and (folder / "checkpoints").is_dir(),
    )
    first.save(folder / "model")
    return first.members(learnt, device).std(0)


def _fitting(module: Learning, seconds: float, device: torch.device) -> int:
    """Steps that fit into a time, that of finding out included: steps of each stage that change nothing are timed."""
    began = time.perf_counter()
    module.to(device)
    module.on_fit_start()
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    stages = Counter(module.stage(step) for step in range(SCHEDULE))
    mean = sum(count * _time_of(module, stage, optimizer, device) for stage, count in stages.items()) / SCHEDULE
    # The training records its stages once more.
    left = SPENT * seconds - 2 * (time.perf_counter() - began)
    return max(len(stages), int(left / mean))


def _time_of(module: Learning, stage: Stage, optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    began = 0.0
    for step in range(1 + TIMED):
        if step == 1:
            _wait(device)
            began = time.perf_counter()
        module.gradients(step, stage)
        optimizer.step()
    _wait(device)
    return (time.perf_counter() - began) / TIMED


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _calibrate(ensemble: Ensemble, valid: Runs, device: str) -> None:
    """Sets what turns the members' spread into an error, and which errors are too large to be trusted."""
    from farfield.apps.physics.trust import calibrate

    found = ensemble.members(valid, device).double()
    # Held values have neither error nor spread, and would stand for places that have both.
    free = torch.from_numpy(~valid.held.any(axis=1))
    error = (found.mean(0) - valid.values.double()).abs()[:, 1:, free]
    spread = found.std(0)[:, 1:, free]
    ensemble.factor = calibrate(list(error.flatten(1, 2)), list(spread.flatten(1, 2)))
    # An error of a tenth of the field's own spread is no longer a prediction to rely on.
    ensemble.tolerance = 0.1 * ensemble.scales.spread.double()


def _check(model: Mapping[str, Any], trainer: Mapping[str, Any], precision: str) -> None:
    for name, accepted in CHOICES.items():
        if model[name] not in accepted:
            raise UserError(f"model.{name}={model[name]}: {', '.join(accepted)} are accepted")
    for name in ("order", "stride", "order_time", "nodes", "neighbours", "levels"):
        if not isinstance(model[name], int) or isinstance(model[name], bool) or model[name] < 1:
            raise UserError(f"model.{name}={model[name]}: a whole number, at least 1, is accepted")
    if model["space"] == "splines" and not 2 <= model["order"] <= 8:
        raise UserError(f"model.order={model['order']}: 2 to 8 are accepted")
    if trainer["optimizer"] not in OPTIMIZERS:
        raise UserError(f"trainer.optimizer={trainer['optimizer']}: {', '.join(OPTIMIZERS)} are accepted")
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision={precision}: fp32, bf16 are accepted by train")
    for name in ("lr", "batch"):
        if not trainer[name] > 0:
            raise UserError(f"trainer.{name}={trainer[name]}: a number above 0 is accepted")
    for name in ("noise", "residual", "weight_decay", "nodes_first", "nodes_weight"):
        if not 0 <= float(trainer[name]) < np.inf:
            raise UserError(f"trainer.{name}={trainer[name]}: 0 or a number above it is accepted")
    symmetries = trainer["symmetries"]
    if not isinstance(symmetries, list) or (set(symmetries) - set(SYMMETRIES)) or (symmetries and trainer["residual"]):
        raise UserError(
            f"trainer.symmetries={symmetries}: a list of {', '.join(SYMMETRIES)} is accepted, and no residual"
        )
    unroll = trainer["unroll"]
    if not isinstance(unroll, list) or not unroll or any(not isinstance(w, int) or w < 1 for w in unroll):
        raise UserError(f"trainer.unroll={unroll}: a list of whole numbers is accepted, for example [1,2,4]")
