"""Runs on different meshes and at different times: carried to shared ones, judged on their own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.apps.physics.case import Case, Field, in_memory
from farfield.apps.physics.equations.domain import Bar, Disk, Domain, triangulate
from farfield.apps.physics.evaluate import rows_of, score
from farfield.apps.physics.resample import Carries, in_time, shared_times
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError
from tests.apps.physics.small import square_case
from tests.apps.physics.surrogates import heat_cases, line_case, trained

DOMAIN = Domain((1.0, 1.0), (Disk("hole", (0.3, 0.65), 0.12), Bar("wall", (0.6, 0.2), (0.62, 0.8))))


@cache
def meshed(size: float) -> Case:
    """A smooth field round the hole, 5 more to the right of the wall."""
    nodes, triangles = triangulate(DOMAIN, size, size / 2)
    times = np.linspace(0, 1, 5)
    x, y = nodes.T
    u = np.sin(2 * x + y)[None] * (1 + times[:, None])
    return Case(
        name=f"mesh-{size}",
        nodes=nodes,
        cells={"triangle": triangles},
        times=times,
        fields={"u": Field("u", "K", 1)},
        reader=in_memory({"u": u[..., None]}),
        units={"x": "m", "t": "s"},
        boundary=DOMAIN.boundary(nodes),
        origin={"split": "train"},
    )


def test_smooth_fields_survive_the_way_to_another_mesh_and_back() -> None:
    fine, coarse = meshed(0.05), meshed(0.08)
    carries = Carries(fine, fine.name)
    here, back = carries.here(coarse), carries.back(coarse)
    assert np.abs(here(coarse.read("u")) - fine.read("u")).max() < 4e-3
    assert np.abs(back(fine.read("u")) - coarse.read("u")).max() < 2e-3


def test_nothing_passes_the_wall_and_constants_stay_on_parts() -> None:
    fine, coarse = meshed(0.05), meshed(0.08)
    here = Carries(fine, fine.name).here(coarse)
    beside = (np.abs(coarse.nodes[:, 1] - 0.5) < 0.2) & (np.abs(coarse.nodes[:, 0] - 0.61) < 0.3)
    source = (beside & (coarse.nodes[:, 0] > 0.61)).astype(float)[None, :, None]
    reached = here(source)[0, :, 0]
    left = (np.abs(fine.nodes[:, 1] - 0.5) < 0.15) & (fine.nodes[:, 0] < 0.605) & (fine.nodes[:, 0] > 0.4)
    assert left.sum() > 10
    assert np.abs(reached).max() > 0.9
    assert np.abs(reached[left]).max() == 0
    rim = np.zeros(len(coarse.nodes))
    rim[coarse.boundary["hole"]] = 3.0
    assert np.abs(here(rim[None, :, None])[0, fine.boundary["hole"], 0] - 3).max() < 1e-12


def test_both_sides_of_a_slit_keep_their_own_values() -> None:
    def slit(n: int) -> Case:
        axis = np.linspace(0, 1, 2 * n + 1)
        nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        square = [[i * (2 * n + 1) + j for i, j in ((a, b), (a + 1, b), (a + 1, b + 1), (a, b + 1))]
                  for a in range(2 * n) for b in range(2 * n)]  # fmt: skip
        cells = np.array(square)
        # The line x = 1/2, y < 1/2 is cut open: cells on its right get nodes of their own.
        cut = np.flatnonzero((nodes[:, 0] == 0.5) & (nodes[:, 1] < 0.5))
        fresh = {int(k): len(nodes) + i for i, k in enumerate(cut)}
        right = nodes[cells].mean(axis=1)[:, 0] > 0.5
        cells[right] = np.vectorize(lambda k: fresh.get(int(k), int(k)))(cells[right])
        nodes = np.concatenate([nodes, nodes[cut]])
        side = np.zeros(len(nodes))
        side[np.unique(cells[right])] = 1
        side[np.unique(cells[~right])] = 0
        side[np.unique(cells[right])] *= 1 + np.sin(7 * nodes[np.unique(cells[right])]).sum(axis=1)
        base = line_case(n=2)
        return replace(
            base, name=f"slit-{n}", nodes=nodes, cells={"quad": cells}, boundary={},
            reader=in_memory({"u": np.broadcast_to(side[None, :, None], (9, len(nodes), 1))}),
        )  # fmt: skip

    one, two = slit(3), slit(4)
    found = Carries(two, two.name).here(one)(one.read("u"))[0, :, 0]
    right = np.unique(two.cells["quad"][two.nodes[two.cells["quad"]].mean(axis=1)[:, 0] > 0.5])
    # Nodes beside its tip see round it.
    left = np.setdiff1d(np.flatnonzero((two.nodes[:, 1] < 0.3) & (two.nodes[:, 0] <= 0.5)), right)
    assert np.abs(found[right]).max() > 1
    assert np.abs(found[left]).max() == 0


def test_grids_are_carried_along_their_axes_round_the_seam_too() -> None:
    def ring(n: int) -> Case:
        x = np.arange(n) / n
        nodes = np.stack(np.meshgrid(x, np.linspace(0, 1, 9), indexing="ij"), axis=-1).reshape(-1, 2)
        u = np.sin(2 * np.pi * nodes[:, 0]) * nodes[:, 1] ** 2
        base = line_case()
        return replace(
            base, name=f"ring-{n}", nodes=nodes, cells={}, boundary={}, period=(1.0, None),
            reader=in_memory({"u": np.broadcast_to(u[None, :, None], (9, len(nodes), 1))}),
        )  # fmt: skip

    one, two = ring(24), ring(40)
    found = Carries(two, two.name).here(one)(one.read("u"))
    assert np.abs(found - two.read("u")).max() < 3e-4
    with pytest.raises(UserError, match="axes that wrap around"):
        Carries(two, "two").here(line_case())


def test_runs_of_several_meshes_and_times_become_one() -> None:
    slow = replace(meshed(0.08), times=np.linspace(2, 3.2, 5))
    runs = Runs.of([meshed(0.08), meshed(0.05), slow])
    assert runs.values.shape == (3, 4, len(meshed(0.05).nodes), 1)
    np.testing.assert_allclose(runs.times, [0, 0.3, 0.6, 0.9], atol=1e-12)
    assert [own is None for own in runs.own] == [False, True, False]
    np.testing.assert_allclose(runs.values[1, 1, :, 0], 1.3 * meshed(0.05).read("u")[0, :, 0], rtol=1e-5)
    assert "2 of 3 runs have meshes of their own" in runs.notes[0]
    assert "3 of 3 runs have times" in runs.notes[1]
    truth, there = runs.truth, runs.on_own(runs.values)
    assert [len(t[0]) for t in truth] == [len(c.nodes) for c in (slow, meshed(0.05), slow)]
    assert score(there, truth)["relative_l2"] < 1e-3
    assert len(runs.take([2]).own) == 1


def test_other_domains_and_short_runs_are_one_message() -> None:
    bare = replace(meshed(0.05), cells={}, boundary={})
    square = line_case()
    away = replace(square, name="away", nodes=square.nodes + 0.5)
    mistakes: list[tuple[list[Case], str]] = [
        ([square, away], "runs of one domain"),
        ([meshed(0.05), square], "lie outside of the shared mesh|lie outside of line"),
        ([meshed(0.05), replace(bare, nodes=bare.nodes[:-5], name="bare")], "no cells"),
        ([square, replace(square, name="late", times=np.linspace(0, 0.01, 9))], "before the second frame"),
        ([square, replace(square, name="one", times=square.times[:1])], "one: one frame"),
    ]
    for cases, text in mistakes:
        with pytest.raises(UserError, match=text):
            Runs.of(cases)
    with pytest.raises(UserError, match="the network's at 2"):
        Runs.of([square], times=np.array([0.0, 1.0, 2.0]))
    assert in_time(square, square.times) is None
    assert len(shared_times([square, replace(square, times=2 * square.times)])) == 5


def test_a_network_of_one_mesh_is_judged_on_others(tmp_path: Path) -> None:
    cases = heat_cases(4)
    other = heat_cases(4, cells=10, frames=17)
    runs = Runs.of([cases[0], cases[1], other[2], other[3]])
    assert len(runs.times) == 13
    ensemble = trained(runs, tmp_path)
    rows = rows_of({"here": ensemble}, runs.part("valid"), "cpu", "valid", timed=False)
    assert all(0 < row["relative_l2"] < 2 for row in rows)
    assert rows[0]["floor"] < 0.05
    field = ensemble.predict(other[3])
    found = field(torch.from_numpy(other[3].nodes), 0.0)
    assert np.abs(found.numpy() - other[3].read("u")[0]).max() < 0.2


def test_signals_follow_the_shared_times() -> None:
    late = square_case(frames=5)
    runs = Runs.of([square_case(frames=3), replace(late, name="late")])
    np.testing.assert_allclose(runs.signals[1, :, 0], [0, 0.25, 1])
