"""Steps of training: at the nodes first, then through the splines; recorded on a GPU they are the launched ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from farfield.apps.physics.clock import clock_of
from farfield.apps.physics.ensemble import network_of
from farfield.apps.physics.learning import Learning, Stage
from farfield.apps.physics.places import places_of
from farfield.apps.physics.prepared import prepare, scales_of
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import _fitting, settings_of, train_runs
from farfield.apps.training import RunFolder
from tests.apps.physics.surrogates import MODEL, TRAINER, heat_cases, trained


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs.of(heat_cases(2)).part("train")


def learning(
    runs: Runs, device: str = "cpu", *, precision: str = "fp32", loss: str = "fields", **values: Any
) -> Learning:
    on = torch.device(device)
    model = settings_of(MODEL | {"loss": loss}, "model/graphspline")
    trainer = settings_of({"unroll": [1, 2], "batch": 3} | values, "trainer/default")
    clock = clock_of(runs, model)
    places, graph = places_of(runs, model, runs)
    scales = scales_of(runs, places, clock, False)
    none = torch.empty(0)
    found = Learning(
        network_of(model, graph, places, scales, runs, 5),
        prepare(runs, places, scales, model, on),
        None,
        clock,
        trainer,
        max_steps=40,
        seed=3,
        precision=precision,
        nodes_first=1.0 if loss == "nodes" else trainer["nodes_first"],
        curve=none,
        expand=None,
        truth=None,
        known=none,
    ).to(on)
    found.on_fit_start()
    return found


def test_the_nodes_come_first_and_windows_grow(runs: Runs) -> None:
    module = learning(runs, nodes_first=0.25)
    stages = [module.stage(step) for step in range(40)]
    assert stages[:10] == [Stage(1, True)] * 10
    assert stages[10:20] == [Stage(1, False)] * 10
    assert stages[20:] == [Stage(2, False)] * 20
    assert all(s.nodal for s in map(learning(runs, loss="nodes").stage, range(40)))


def test_a_share_of_the_loss_at_the_nodes_may_stay(runs: Runs) -> None:
    costs = []
    for weight in (0.0, 1.0, 3.0):
        module = learning(runs, nodes_weight=weight, noise=0.0)
        index = module.drawn(0, 2)
        costs.append(module.losses(index, Stage(2, False), module.empty_noise(index)))
    nodal = module.losses(index, Stage(2, True), module.empty_noise(index))
    torch.testing.assert_close(costs[1] - costs[0], nodal)
    torch.testing.assert_close(costs[2] - costs[0], 3 * nodal)


def test_members_gradients_are_cut_one_by_one(runs: Runs) -> None:
    module = learning(runs, clip=1e-3)
    grads = [
        torch.randn_like(p) * torch.tensor([1.0, 1e-6]).view(-1, *(1,) * (p.dim() - 1)) for p in module.parameters()
    ]
    small = [g[1].clone() for g in grads]
    module.clip_members(grads)
    norms = torch.stack([torch.cat([g[k].flatten() for g in grads]).norm() for k in range(2)])
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-4)
    assert all(torch.equal(g[1], s) for g, s in zip(grads, small, strict=True))


def test_post_hoc_begins_at_the_values_of_its_nodes(runs: Runs) -> None:
    module = learning(runs, loss="nodes")
    model = settings_of(MODEL, "model/graphspline")
    places, _ = places_of(runs, model, runs)
    scales = scales_of(runs, places, clock_of(runs, model), False)
    torch.testing.assert_close(module.train_data.states, places.sampled(scales.fields(runs.values)))
    assert not torch.equal(module.train_data.states, learning(runs).train_data.states)


def test_a_budget_ends_with_a_validation_and_is_the_same_when_resumed(tmp_path: Path) -> None:
    runs = Runs.of(heat_cases(3))
    trainer = {"max_steps": None, "val_every": 4, "checkpoint_every": 10**6}
    found = trained(runs, tmp_path, trainer=trainer, budget="3s")
    steps = found.about["max_steps"]
    validated = [line["step"] for line in RunFolder(tmp_path).metrics() if "val/relative_l2" in line]
    assert validated[-1] == steps
    assert found.about["step"] in validated
    assert trained(runs, tmp_path, trainer=trainer, budget="9s", resume=True).about["max_steps"] == steps


def test_finding_out_how_many_steps_fit_changes_no_weight(runs: Runs) -> None:
    module = learning(runs)
    before = [p.detach().clone() for p in module.parameters()]
    assert _fitting(module, 3.0, torch.device("cpu")) >= 3
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_are_the_launched_ones(runs: Runs, precision: str) -> None:
    found = []
    for recorded in (True, False):
        module = learning(runs, "cuda", precision=precision)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
        losses = []
        for step in range(40):
            stage = module.stage(step)
            index = module.drawn(step, stage.steps)
            if recorded:
                losses.append(module.gradients(step, stage))
            else:
                losses.append(module.passed(index, stage, module.disturb(module.empty_noise(index), step)))
            optimizer.step()
            if step == 30:
                # What a validation does to memory between two steps.
                torch.cuda.empty_cache()
                torch.randn(300, 300, device="cuda") @ torch.randn(300, 300, device="cuda")
        found.append((torch.stack(losses), torch.cat([p.detach().flatten() for p in module.parameters()])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_a_budget_is_kept_by_recorded_steps(runs: Runs, tmp_path: Path) -> None:
    # Large products need what Lightning frees between the timing and the training.
    model = MODEL | {"space": "nodes", "stride": 1, "order_time": 1, "width": 128}
    trainer = TRAINER | {"max_steps": None, "batch": 64, "val_every": 0, "checkpoint_every": 10**6}
    found = train_runs(
        runs, run_folder=tmp_path, model=model, trainer=trainer, device="cuda", precision="bf16", budget="6s"
    )
    assert found.about["max_steps"] > 2
    assert all(bool(p.isfinite().all()) for p in found.net.parameters())


@pytest.mark.gpu
def test_a_recording_survives_the_end_of_another(runs: Runs) -> None:
    kept = learning(runs, "cuda")
    first = kept.gradients(0, Stage(2, False))
    for _ in range(3):
        other = learning(runs, "cuda")
        other.gradients(0, Stage(1, True))
        other.on_fit_end()
        del other
        torch.cuda.empty_cache()
        filled = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(40)]
        torch.testing.assert_close(kept.gradients(0, Stage(2, False)), first, rtol=0, atol=0)
        assert all(bool(f.isnan().all()) for f in filled)
