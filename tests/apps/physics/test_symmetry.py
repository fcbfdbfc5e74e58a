"""Runs seen mirrored, turned and shifted: what is the same stays the same, what is not is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.apps.physics.clock import clock_of
from farfield.apps.physics.places import places_of
from farfield.apps.physics.prepared import prepare, scales_of
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.symmetry import Motion, motions, moved, places_after, seen
from farfield.apps.physics.train import settings_of
from farfield.apps.training import UserError
from tests.apps.physics.surrogates import MODEL, heat_cases, trained

BOTH = ["mirror", "turn"]


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs.of(heat_cases(2)).part("train")


def with_values(runs: Runs, values: torch.Tensor, count: int) -> Runs:
    """One run with a field of so many components."""
    held = np.zeros((len(runs.nodes), count), bool)
    return replace(runs.take([0]), values=values.float(), held=held, fields=(("w", count),), boundary={}, dirichlet=())


def test_a_vortex_is_the_same_turned_and_the_other_way_round_mirrored(runs: Runs) -> None:
    x, y = torch.from_numpy(runs.nodes).T - 0.5
    vortex = with_values(runs, torch.stack([-y, x], -1).expand(1, len(runs.times), -1, -1), 2)
    every = list(motions(vortex, BOTH))
    assert len(every) == 8
    assert every[0] == Motion((0, 1), (1, 1))
    for motion in every:
        place = places_after(vortex.nodes, vortex, motion)
        found = moved(vortex.values, place, vortex.fields, motion)
        handed = np.linalg.det(np.eye(2)[list(motion.axes)]) * np.prod(motion.signs)
        torch.testing.assert_close(found, handed * vortex.values)
    assert [m for m in every if np.linalg.det(np.eye(2)[list(m.axes)]) * np.prod(m.signs) > 0] == list(
        motions(vortex, ["turn"])
    )
    assert list(motions(vortex, ["shift"])) == every[:1]


def test_values_go_where_the_motion_takes_them(runs: Runs) -> None:
    x, y = torch.from_numpy(runs.nodes).T
    slope = with_values(runs, (x + 10 * y)[:, None].expand(1, len(runs.times), -1, -1), 1)
    motion = Motion((1, 0), (1, -1))
    found = moved(slope.values, places_after(slope.nodes, slope, motion), slope.fields, motion)
    torch.testing.assert_close(found[0, 0, :, 0], (1 - y + 10 * x).float())


def test_training_sees_all_motions_and_a_motion_is_the_run_moved_beforehand(runs: Runs) -> None:
    model = settings_of(MODEL, "model/graphspline")
    places, _ = places_of(runs, model, runs)
    scales = scales_of(runs, places, clock_of(runs, model), False)

    def coarse(some: Runs) -> torch.Tensor:
        return prepare(some, places, scales, model, torch.device("cpu"))

    found = seen(coarse, runs, places.nodes, places.held, BOTH)  # type: ignore[arg-type]
    count = len(runs)
    assert len(found.states) == len(found.static) == len(found.signals) == len(found.inputs) == 8 * count
    for i, motion in enumerate(motions(runs, BOTH)):
        fine = moved(runs.values, places_after(runs.nodes, runs, motion), runs.fields, motion)
        before = prepare(replace(runs, values=fine), places, scales, model, torch.device("cpu"))
        torch.testing.assert_close(found.states[i * count : (i + 1) * count], before.states, rtol=0, atol=2e-5)
        torch.testing.assert_close(found.static[i * count : (i + 1) * count], before.static)


def test_shifts_are_by_half_the_distance_of_nodes(runs: Runs) -> None:
    n = 12
    axis = np.arange(n) / n
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    values = torch.randn(1, len(runs.times), n * n, 1)
    around = replace(with_values(runs, values, 1), nodes=nodes, period=(1.0, 1.0), inputs=values[..., :0], cells={})
    coarse = nodes[(nodes * n % 4 == 0).all(1)]
    index = torch.from_numpy(np.flatnonzero((nodes * n % 4 == 0).all(1)))
    given = prepared_of(around, index)
    found = seen(lambda r: prepared_of(r, index), around, coarse, torch.zeros(9, 1, dtype=torch.bool), ["shift"])
    assert len(found.states) == 4
    grid = torch.unflatten(values, 2, (n, n))
    torch.testing.assert_close(found.states[3], grid.roll((2, 2), (2, 3)).flatten(2, 3)[0][:, index])
    torch.testing.assert_close(found.states[:1], given.states)


def prepared_of(runs: Runs, index: torch.Tensor):  # type: ignore[no-untyped-def]
    from farfield.apps.physics.prepared import Prepared

    return Prepared(
        runs.values[:, :, index], runs.inputs[:, :, index], runs.signals, runs.static.float(), None, False, 1.0, 9
    )


def test_what_is_not_symmetric_is_refused(runs: Runs, tmp_path: Path) -> None:
    nodes = runs.nodes.copy()
    nodes[20, 0] += 0.01
    with pytest.raises(UserError, match="of 169 coarse nodes have none opposite"):
        places_after(nodes, runs, Motion((0, 1), (-1, 1)))
    three = with_values(runs, runs.values[:1].expand(-1, -1, -1, 3), 3)
    with pytest.raises(UserError, match="w has 3 components"):
        moved(three.values, torch.arange(169), three.fields, Motion((0, 1), (1, 1)))
    for trainer, text in (
        ({"symmetries": ["spin"]}, "mirror, turn, shift"),
        ({"symmetries": ["mirror"], "residual": 1.0}, "no residual"),
        ({"symmetries": ["shift"]}, "wraps around"),
    ):
        with pytest.raises(UserError, match=text):
            trained(Runs.of(heat_cases(2)), tmp_path, trainer=trainer)
    held = runs.held.copy()
    held[runs.nodes[:, 0] == 0] = False
    some = replace(runs, held=held, dirichlet=("right", "bottom", "top"))
    with pytest.raises(UserError, match="known beforehand on one side"):
        trained(some, tmp_path, trainer={"symmetries": ["mirror"]})


def test_a_network_is_trained_on_all_of_them(tmp_path: Path) -> None:
    found = trained(Runs.of(heat_cases(3)), tmp_path, trainer={"symmetries": BOTH})
    assert all(bool(p.isfinite().all()) for p in found.net.parameters())
