"""Training: one run learnt by heart, repeatable, resumable; rollouts that keep what is known and stay bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farfield.apps.physics.case import in_memory
from farfield.apps.physics.clock import Clock
from farfield.apps.physics.ensemble import Ensemble, network_of
from farfield.apps.physics.evaluate import persistence, rows_of, score
from farfield.apps.physics.places import places_of
from farfield.apps.physics.prepared import scales_of
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import settings_of, train_runs
from farfield.apps.training import RunFolder, UserError
from farfield.apps.training.checkpoint import read_weights
from tests.apps.physics.surrogates import MODEL, TRAINER, heat_cases, trained


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs.of(heat_cases(4))


@pytest.fixture(scope="module")
def ensemble(runs: Runs, tmp_path_factory: Any) -> Ensemble:
    return trained(runs, tmp_path_factory.mktemp("run"))


def test_one_run_is_learnt_by_heart(tmp_path: Path) -> None:
    runs = Runs.of(heat_cases(1, modes=1))
    model = {"members": 1, "stride": 6, "cells": 2, "order": 4, "blocks": 1, "positions": True, "width": 32}
    trainer = {"max_steps": 300, "lr": 5e-3, "unroll": [2], "noise": 0.0, "batch": 1, "clip": 0.0, "weight_decay": 0.0}
    found = trained(runs, tmp_path, model=model, trainer=trainer | {"val_every": 0, "checkpoint_every": 300})
    assert score(persistence(runs), runs.values)["relative_l2"] > 0.08
    assert score(found.projected(runs), runs.values)["relative_l2"] < 2e-4
    assert score(found.rollout(runs), runs.values)["relative_l2"] < 1e-3


def test_the_same_seed_gives_the_same_weights_and_another_one_others(runs: Runs, tmp_path: Path) -> None:
    a, b, c = (trained(runs, tmp_path / str(i), seed=s) for i, s in enumerate((1, 1, 2)))
    for x, y, z in zip(a.net.parameters(), b.net.parameters(), c.net.parameters(), strict=True):
        assert torch.equal(x, y)
        assert x.numel() == 0 or not torch.equal(x, z) or bool((x == 0).all())


def test_a_resumed_run_equals_an_uninterrupted_one(runs: Runs, tmp_path: Path) -> None:
    whole = trained(runs, tmp_path / "whole")
    # Four of six steps, then the rest: the schedule is that of the whole run.
    from farfield.apps.physics import learning

    halted = tmp_path / "halted"
    original = learning.Learning.training_step

    def stopping(self: Any, batch: int, at: int) -> Any:
        if batch == 4:
            raise RuntimeError("power failure")
        return original(self, batch, at)

    learning.Learning.training_step = stopping  # type: ignore[method-assign]
    try:
        with pytest.raises(RuntimeError, match="power failure"):
            trained(runs, halted)
    finally:
        learning.Learning.training_step = original  # type: ignore[method-assign]
    trained(runs, halted, resume=True)
    ends = [RunFolder(p).last_checkpoint() for p in (tmp_path / "whole", halted)]
    first, again = (read_weights(e) for e in ends if e is not None)
    assert set(first) == set(again)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert whole.about["step"] > 0


def test_training_beats_doing_nothing_and_writes_metrics(runs: Runs, tmp_path: Path) -> None:
    trainer = {"max_steps": 60, "val_every": 30, "checkpoint_every": 30, "unroll": [1, 2], "batch": 4}
    found = trained(runs, tmp_path, trainer=trainer)
    valid = runs.part("valid")
    got = score(found.rollout(valid), valid.values)["relative_l2"]
    assert got < 0.7 * score(persistence(valid), valid.values)["relative_l2"]
    assert found.about["valid"] is not None
    assert any("val/relative_l2" in line for line in RunFolder(tmp_path).metrics())
    assert found.factor is not None
    assert bool((found.factor > 0).all())


def test_held_values_are_exact_in_every_frame(runs: Runs, ensemble: Ensemble) -> None:
    rim = torch.from_numpy(runs.held[:, 0])
    found = ensemble.members(runs)[:, :, :, rim]
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=1e-6)


def test_held_values_that_change_are_followed(tmp_path: Path) -> None:
    cases = []
    for case in heat_cases(2):
        u = case.read("u")
        lift = np.sin(3 * case.times)[:, None, None]
        cases.append(replace(case, reader=in_memory({"u": u + lift})))
    runs = Runs.of(cases, dirichlet=["left", "right", "bottom", "top"])
    found = trained(runs, tmp_path, trainer={"val_every": 0})
    assert bool(found.scales.moving)
    rim = torch.from_numpy(runs.held[:, 0])
    got, truth = found.rollout(runs)[:, :, rim], runs.values[:, :, rim]
    assert truth.std() > 0.1
    torch.testing.assert_close(got, truth, rtol=0, atol=2e-3)


def test_a_saved_ensemble_is_the_same_when_loaded(runs: Runs, ensemble: Ensemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "model")
    again = Ensemble.load(tmp_path / "model")
    assert torch.equal(again.members(runs), ensemble.members(runs))
    assert again.like.units == ensemble.like.units
    assert torch.equal(again.factor, ensemble.factor)  # type: ignore[arg-type]
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_one_member_alone_rolls_out_as_among_others(runs: Runs, ensemble: Ensemble) -> None:
    alone = ensemble.alone(1).members(runs)
    torch.testing.assert_close(alone[0], ensemble.members(runs)[1], rtol=0, atol=1e-6)
    assert (ensemble.members(runs)[0] - ensemble.members(runs)[1]).abs().max() > 1e-5


def test_the_field_is_the_rollout(runs: Runs, ensemble: Ensemble) -> None:
    case = heat_cases(4)[2]
    field = ensemble.predict(case)
    frame = 6
    found = field(torch.from_numpy(case.nodes), torch.tensor([case.times[frame]]))
    expected = ensemble.rollout(runs.take([2]))[0, frame]
    assert (expected - expected.mean()).abs().max() > 1e-3
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=2e-5)


def test_a_field_reaches_later_times_and_other_parameters(ensemble: Ensemble) -> None:
    case = heat_cases(1)[0]
    field = ensemble.predict(case, times=np.array([0.9]))
    x = torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    assert torch.isfinite(field(x, torch.tensor([0.9], dtype=torch.float64))).all()
    other = ensemble.predict(case, static={"diffusivity": 0.09})
    t = torch.tensor([0.3], dtype=torch.float64)
    assert not torch.equal(other(x, t), ensemble.predict(case)(x, t))
    with pytest.raises(UserError, match="'speed' is no parameter"):
        ensemble.predict(case, static={"speed": 1.0})


def test_two_hundred_steps_stay_bounded(runs: Runs, tmp_path: Path) -> None:
    trainer = {"max_steps": 80, "val_every": 0, "checkpoint_every": 80, "unroll": [1, 3], "batch": 4, "noise": 0.01}
    found = trained(runs, tmp_path, model={"members": 1}, trainer=trainer)
    case = heat_cases(1)[0]
    field = found.predict(case, times=np.array([20.0]))
    x, last = torch.tensor([[0.5, 0.5], [0.3, 0.8]], dtype=torch.float64), torch.tensor([20.0], dtype=torch.float64)
    values = field(x, last)
    assert torch.isfinite(values).all()
    assert values.abs().max() < 3 * runs.values.abs().max()


def test_scaled_by_run_a_linear_problem_stays_linear() -> None:
    runs = Runs.of([replace(c, static={}) for c in heat_cases(3, boundary_value=0.0)])
    model = settings_of(MODEL | {"scale": "run"}, "model/graphspline")
    places, graph = places_of(runs, model, runs)
    clock = Clock(runs.times, (0, 4, 8, 12), 3, True)
    scales = scales_of(runs, places, clock, True)
    net = network_of(model, graph, places, scales, runs, 0)
    found = Ensemble(net, places, clock, scales, runs.take([]), model)
    here = found.members(runs)
    there = found.members(replace(runs, values=7 * runs.values))
    assert here.abs().max() > 0.1
    torch.testing.assert_close(there, 7 * here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        {"space": "nodes", "stride": 1, "order_time": 1},
        {"loss": "nodes"},
        {"adapt_time": True, "adapt_space": True},
        {"edge_state": True, "positions": True, "levels": 2},
        {"graph": "delaunay", "order_time": 2},
        {"graph": "nearest", "scale": "run", "order_time": 1, "stride": 2},
    ],
)
def test_every_kind_of_network_trains_and_is_stored(runs: Runs, tmp_path: Path, model: dict[str, Any]) -> None:
    found = trained(runs, tmp_path / "run", model=model, trainer={"max_steps": 2, "unroll": [1], "val_every": 2})
    found.save(tmp_path / "model")
    got = Ensemble.load(tmp_path / "model").rollout(runs)
    assert got.shape == runs.values.shape
    torch.testing.assert_close(got, found.rollout(runs), rtol=0, atol=1e-6)
    assert torch.isfinite(got).all()


def test_the_equations_residual_falls_and_is_small_for_the_truth(tmp_path: Path) -> None:
    from farfield.apps.physics.clock import windows_of
    from farfield.apps.physics.prepared import prepare
    from farfield.apps.physics.residual import Residual

    runs = Runs.of(heat_cases(3, frames=17, cells=16))
    model = settings_of(MODEL | {"cells": 4, "order": 4, "stride": 4, "order_time": 4}, "model/graphspline")
    places, _ = places_of(runs, model, runs)
    clock = Clock(runs.times, (0, 4, 8, 12, 16), 4, True)
    scales = scales_of(runs, places, clock, False)
    prepared = prepare(runs, places, scales, model, torch.device("cpu"))
    windows = windows_of(clock, clock.windows(2))
    index = torch.tensor([[0, 12]])
    start, known, _, _ = prepared.draw(index, windows)
    residual = Residual(1.0, runs, places, scales, torch.device("cpu"))
    first = windows.first[index % len(windows.first)][..., None]
    frames = torch.cat([first, first + windows.frames[0]], -1)
    run = (index // len(windows.first))[..., None]
    fill = windows.fill[windows.kind[index % len(windows.first)]]
    truth = (fill @ prepared.states[run, frames].flatten(-2)).unflatten(-1, start.shape[-2:])
    small = residual(truth, known, index, windows)
    large = residual(start[:, :, None].expand_as(truth), known, index, windows)
    assert float(small) < 0.05 * float(large)
    trained(runs, tmp_path, trainer={"residual": 0.1, "val_every": 0})


def test_settings_that_cannot_be_are_one_message(runs: Runs, tmp_path: Path) -> None:
    mistakes: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
        ({"cell": 3}, {}, {}, "model.cell: no such setting"),
        ({}, {"learning_rate": 1}, {}, "trainer.learning_rate: no such setting"),
        ({"space": "fourier"}, {}, {}, "model.space=fourier"),
        ({"order": 9}, {}, {}, "model.order=9"),
        ({"members": 0}, {}, {}, "model.members=0"),
        ({"scale": "none"}, {}, {}, "model.scale=none"),
        ({}, {"unroll": []}, {}, "trainer.unroll"),
        ({}, {"unroll": [9]}, {}, "no window of 9"),
        ({}, {"lr": 0}, {}, "trainer.lr=0"),
        ({}, {"noise": -1}, {}, "trainer.noise=-1"),
        ({}, {"max_steps": None}, {}, "needs a budget"),
        ({}, {}, {"precision": "fp16"}, "precision=fp16"),
        ({"order_time": 2}, {"residual": 1.0}, {"equation": "kuramoto"}, "of the equation kuramoto"),
    ]
    for i, (model, trainer, other, text) in enumerate(mistakes):
        data = replace(runs, equation=other.pop("equation", runs.equation))
        with pytest.raises(UserError, match=text):
            trained(data, tmp_path / str(i), model=model, trainer=trainer, **other)
    with pytest.raises(UserError, match="no run is in the split train"):
        train_runs(runs.part("valid"), run_folder=tmp_path / "none", model=MODEL, trainer=TRAINER, device="cpu")


def test_another_mesh_or_no_checkpoint_is_refused(ensemble: Ensemble, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the one trained on"):
        ensemble.rollout(Runs.of(heat_cases(1, cells=8)))
    with pytest.raises(UserError, match="no trained network is there"):
        Ensemble.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError):
        Ensemble.load(tmp_path)


def test_scores_say_how_far_off_a_rollout_is(runs: Runs, ensemble: Ensemble) -> None:
    perfect = score(runs.values, runs.values)
    assert perfect == {"relative_l2": 0.0, "relative_l2_last": 0.0, "drift": 0.0}
    grown = score(runs.values * 1.1, runs.values)
    assert grown["relative_l2"] == pytest.approx(0.1, rel=1e-5)
    rows = rows_of({"here": ensemble}, runs.part("valid"), "cpu", "valid", timed=True)
    assert [r["model"] for r in rows] == ["here", "persistence"]
    assert rows[0]["seconds"] > 0
    assert len(rows[0]["members"]) == 2
    assert rows[0]["floor"] < rows[0]["relative_l2"]
