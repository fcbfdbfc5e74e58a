"""Fields of trained networks: on full grids that wrap around, and where some fields alone are held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from farfield.apps.cli.compose import composed
from farfield.apps.physics.case import Field, in_memory
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.mesh import edges
from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.rims import border
from farfield.apps.physics.runs import Runs
from tests.apps.physics.surrogates import heat_cases, line_case, trained
from tests.apps.physics.test_resample import meshed

QUICK = {"max_steps": 2, "val_every": 0, "checkpoint_every": 2, "unroll": [1]}


def test_a_network_on_all_nodes_of_a_ring_gives_a_field_round_its_seam(tmp_path: Path) -> None:
    x = np.arange(12) / 12
    nodes = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    u = np.sin(2 * np.pi * (nodes[None, :, 0] - line_case().times[:, None])) + np.cos(2 * np.pi * nodes[:, 1])
    case = replace(
        line_case(), nodes=nodes, cells={}, boundary={}, period=(1.0, 1.0), reader=in_memory({"u": u[..., None]})
    )
    runs = Runs.of([case])
    model = {"space": "nodes", "stride": 1, "order_time": 1, "graph": "nearest", "members": 1}
    ensemble = trained(runs, tmp_path, model=model, trainer=QUICK)
    field = ensemble.predict(case)
    assert isinstance(field.space, Rectangle)
    rollout = ensemble.rollout(runs)[0]
    torch.testing.assert_close(field(nodes, case.times[3]).float(), rollout[3], rtol=0, atol=1e-5)
    p = torch.rand(50, 2, dtype=torch.float64)
    assert (
        field(p, 0.0)[:, 0] - torch.sin(2 * torch.pi * p[:, 0]) - torch.cos(2 * torch.pi * p[:, 1])
    ).abs().max() < 0.01
    torch.testing.assert_close(field(p + torch.tensor([1.0, -2.0]), 0.5), field(p, 0.5), rtol=0, atol=1e-8)


def test_cells_along_each_axis_may_differ_and_come_turned(tmp_path: Path) -> None:
    settings = composed("physics", "train", ["data=x", "model.cells=[3,2]"])["model"]
    case = heat_cases(1)[0]
    turned = replace(case, cells={k: np.ascontiguousarray(v[:, ::-1])[:, ::-1] for k, v in case.cells.items()})
    assert Runs.of([turned]).cells["quad"].flags.c_contiguous
    ensemble = trained(Runs.of([turned]), tmp_path, model={"cells": settings["cells"]}, trainer=QUICK)
    assert ensemble.places.space is not None
    assert ensemble.nodes == (3 * 2 + 2) * (2 * 2 + 2)
    ensemble.save(tmp_path / "model")
    assert Ensemble.load(tmp_path / "model").nodes == ensemble.nodes


def test_a_field_that_alone_is_held_is_met_along_the_sides(tmp_path: Path) -> None:
    base = meshed(0.08)
    rim = np.zeros(len(base.nodes), bool)
    rim[base.boundary["hole"]] = True
    u = np.where(rim, 0.0, np.sin(5 * base.nodes).sum(axis=1))[None] * np.linspace(1, 2, 5)[:, None]
    p = np.cos(3 * base.nodes).sum(axis=1)[None] * np.linspace(1, 2, 5)[:, None]
    fields = {"u": Field("u", "m s-1", 1), "p": Field("p", "Pa", 1)}
    case = replace(base, fields=fields, reader=in_memory({"u": u[..., None], "p": p[..., None]}))
    runs = Runs.of([case])
    assert "u:hole" in runs.dirichlet
    assert "hole" not in runs.dirichlet
    model = {"nodes": 120, "stride": 2, "order_time": 2, "members": 1}
    field = trained(runs, tmp_path, model=model, trainer=QUICK).predict(case)
    sides = border(case.cells["triangle"])
    sides = sides[rim[sides].all(axis=1)]
    assert len(sides) > 5
    assert len(edges(case.cells)) > len(sides)
    middle = case.nodes[sides].mean(axis=1)
    found = torch.stack([field(middle, t) for t in (0.0, 0.4, 1.0)])
    assert found[..., 0].abs().max() < 1e-6
    assert found[..., 1].abs().max() > 0.1
