"""Cells and nodes where the members of an ensemble differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.apps.physics.adaptive import node_density, partitions
from farfield.apps.physics.mesh import edges
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError
from tests.apps.physics.surrogates import heat_cases, trained
from tests.apps.physics.test_resample import meshed

QUICK = {"max_steps": 4, "val_every": 0, "checkpoint_every": 4, "unroll": [1]}


def test_cells_are_short_where_members_differ() -> None:
    runs = Runs.of(heat_cases(2, frames=3, cells=48))
    x = torch.from_numpy(runs.nodes[:, 0])
    spread = (0.01 + torch.exp(-(((x - 0.3) / 0.05) ** 2)))[None, None, :, None].expand_as(runs.values)
    knots, other = partitions(runs, [8, 8], 3, True, spread)
    widths = knots.diff()
    assert 0.2 < float(knots[widths.argmin()]) < 0.4
    assert float(widths.min()) < 0.75 / 8
    torch.testing.assert_close(other, torch.linspace(0, 1, 9, dtype=torch.float64))
    even = partitions(runs, [8, 8], 3, True, torch.ones_like(runs.values))
    torch.testing.assert_close(even[0], torch.linspace(0, 1, 9, dtype=torch.float64))


def test_nodes_of_a_mesh_gather_where_members_differ() -> None:
    runs = Runs.of([meshed(0.08)])
    near = np.linalg.norm(runs.nodes - [0.8, 0.8], axis=1) < 0.2
    spread = torch.from_numpy(np.where(near, 1.0, 0.04))[None, None, :, None].expand_as(runs.values)
    density = node_density(runs, edges(runs.cells), spread)
    assert density[near].min() > 2 * density[~near].max()


def test_a_training_follows_the_spread_of_a_first_one(tmp_path: Path) -> None:
    runs = Runs.of(heat_cases(4))
    model = {"adapt_space": True, "adapt_by": "spread"}
    ensemble = trained(runs, tmp_path, model=model, trainer=QUICK)
    assert (tmp_path / "first" / "model" / "config.json").is_file()
    again = trained(runs, tmp_path, model=model, trainer=QUICK, resume=True)
    np.testing.assert_array_equal(again.places.nodes, ensemble.places.nodes)
    with pytest.raises(UserError, match=r"adapt_by=spread needs model\.members of 2"):
        trained(runs, tmp_path / "one", model=model | {"members": 1}, trainer=QUICK)
    with pytest.raises(UserError, match="adapt_by=size"):
        trained(runs, tmp_path / "two", model=model | {"adapt_by": "size"}, trainer=QUICK)
