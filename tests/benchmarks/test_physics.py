"""Tables of physics: forces, errors and coarse solvers are what they say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.physics_checks import crossings, force_errors
from benchmarks.physics_forces import Rim, shedding
from benchmarks.physics_solvers import solve
from benchmarks.physics_study import EQUATIONS, FIELDS, QUICK, SPLIT, grid_shape, made, persistence, relative_l2
from benchmarks.physics_table import entries, errors, solvers, wakes
from farfield.apps.cli.compose import composed
from farfield.apps.physics.equations.domain import Disk, Domain, triangulate

CENTER = np.array([0.5, 0.45])


def rim_of_a_disk():
    domain = Domain((1.0, 1.0), (Disk("disk", (0.5, 0.45), 0.2),))
    nodes, triangles = triangulate(domain, 0.1, 0.03)
    return nodes, Rim.of(nodes, triangles, domain.boundary(nodes)["disk"], CENTER)


def test_forces_are_those_of_closed_forms():
    nodes, rim = rim_of_a_disk()
    count = len(rim.ends)
    polygon = 0.5 * count * 0.2**2 * np.sin(2 * np.pi / count)
    still = np.zeros((1, len(nodes), 2))
    # A pressure that rises with x pushes back by the disk's area; one that is the same everywhere does not push.
    assert rim.force(still, nodes[None, :, 0], 1.0, 1.0)[0] == pytest.approx([-polygon, 0], abs=1e-12)
    assert rim.force(still, np.ones((1, len(nodes))), 1.0, 1.0)[0] == pytest.approx([0, 0], abs=1e-12)
    # (x^2, -2 x y) has the stress 2 nu e, whose divergence nu lap u = (2 nu, 0) is the force by area.
    x, y = nodes.T
    push = rim.force(np.stack([x**2, -2 * x * y], 1)[None], np.zeros((1, len(nodes))), 0.5, 3.0)[0]
    assert push == pytest.approx([3.0 * 0.5 * 2 * polygon, 0], abs=0.2 * 3.0 * polygon)


def test_frequency_is_that_of_the_lift():
    t = np.arange(0, 2, 0.02)
    force = np.stack([1 + 0 * t, 0.3 * np.sin(2 * np.pi * 3.1 * t + 0.4)], axis=1)
    found = shedding(force, speed=1.0, across=0.1, density=1.0, dt=0.02)
    assert found.frequency == pytest.approx(3.1, rel=2e-3)
    assert found.drag_mean == pytest.approx(20.0)


def test_forces_are_compared_by_seed():
    domain = Domain((1.0, 1.0), (Disk("disk", (0.5, 0.45), 0.2),))
    nodes, triangles = triangulate(domain, 0.1, 0.03)
    settings = {"center": CENTER.tolist(), "radius": 0.2, "density": 1.0, "speed": 1.0}
    t = torch.arange(0, 2, 0.02, dtype=torch.float64)
    pressure = -3 * torch.from_numpy(nodes[:, 0]) + torch.sin(2 * np.pi * 2 * t)[:, None] * torch.from_numpy(
        nodes[:, 1]
    )
    truth = torch.cat([torch.zeros(len(t), len(nodes), 2), pressure[..., None]], dim=-1)
    case = SimpleNamespace(
        nodes=nodes,
        cells={"triangle": triangles},
        times=t.numpy(),
        boundary={"cylinder": domain.boundary(nodes)["disk"]},
        origin={"settings": json.dumps(settings)},
        results={"drag_mean": SimpleNamespace(value=2.0), "viscosity": SimpleNamespace(value=0.01)},
    )
    found = force_errors([case], truth[None], [1.1 * truth[None], 0.8 * truth[None]])
    assert found["drag_mean_error"] == pytest.approx(0.15)
    assert (found["drag_mean_error_least"], found["lift_max_error_greatest"]) == pytest.approx((0.1, 0.2))
    assert found["wake_frequency_error"] == pytest.approx(0, abs=1e-9)
    still = force_errors([case], truth[None], [truth[None, :1].expand(1, len(t), -1, -1)])
    assert still["wake_frequency_error"] == 1


def test_lines_through_the_middle_of_a_wall_are_counted():
    low, high = np.array([0.6, 0.2]), np.array([0.62, 0.8])
    left = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.1], [0.7, 0.5]])
    right = np.array([[0.7, 0.5], [0.55, 0.5], [0.7, 0.2], [0.5, 0.52]])
    assert crossings(left, right, low, high) == 2


def test_error_leaves_the_given_frame_out_and_weighs_fields_alike():
    truth = torch.randn(3, 5, 7, 3, dtype=torch.float64)
    said = truth.clone()
    said[:, 0] = 99
    assert relative_l2(said, truth, [2, 1]).tolist() == [0, 0, 0]
    said[..., 2] *= 1.5
    assert relative_l2(said, truth, [2, 1]) == pytest.approx(torch.full((3,), 0.25).double())
    assert relative_l2(torch.zeros_like(truth), truth, [2, 1]) == pytest.approx(torch.ones(3).double())
    assert relative_l2(persistence(truth), truth, [3]).min() > 0.5


@pytest.mark.parametrize("equation", EQUATIONS)
def test_study_of_every_equation_has_whole_runs_in_four_splits(equation):
    words = [f"study={equation}", *SPLIT, *QUICK[equation]]
    settings = composed("physics", "simulate", words)
    assert settings["equation"]["kind"] == equation
    assert sum(settings["split"].values()) < 0.5
    assert set(FIELDS) == set(EQUATIONS)


def test_coarser_grids_have_larger_errors_from_the_same_start(tmp_path, monkeypatch):
    monkeypatch.setenv("FARFIELD_PHYSICS", str(tmp_path))
    case = made("heat", True, 1)[0]
    assert grid_shape(case.nodes) == (17, 17)
    truth = torch.from_numpy(case.read("u"))[None]
    errors = []
    for n in (6, 8, 16):
        solved = solve(case, "heat", {"cells": [n, n]}, ["u"])
        errors.append(float(relative_l2(torch.from_numpy(solved.values)[None], truth, [1])))
        assert solved.seconds > 0
    assert errors[0] > 3 * errors[1] > 0
    assert errors[2] < 1e-6
    assert solve(case, "heat", {"cells": [32, 32]}, ["u"]) is None


def test_tables_put_rows_of_one_network_together():
    def record(provider, at, **filled):
        empty = dict.fromkeys(("metric", "value", "rel_err", "p20_ms", "p50_ms", "p80_ms"), "")
        return empty | {"provider": provider, "shape": at} | filled

    ours, beyond = (f"equation=channel split={s} nodes=300 steps=25" for s in ("test", "extrapolate"))
    coarse, fine = (f"equation=channel split=test nodes={n} steps=100" for n in (98, 205))
    records = [
        record("farfield-adaptive", ours, rel_err="0.15", p20_ms="8.5", p50_ms="8.52", p80_ms="8.53"),
        record("farfield-adaptive", ours, metric="relative_l2_least", value="0.14"),
        record("farfield-adaptive", ours, metric="relative_l2_greatest", value="0.16"),
        record("farfield-adaptive", ours, metric="drag_mean_error", value="0.02"),
        record("farfield-adaptive", beyond, rel_err="0.3"),
        record("farfield-solver-cpu", coarse, rel_err="0.2", p20_ms="5", p50_ms="5", p80_ms="5"),
        record("farfield-solver-cpu", fine, rel_err="0.1", p20_ms="50", p50_ms="50", p80_ms="50"),
    ]
    every = entries(records)
    row = list(errors(every))[2]
    assert "300 | 25 | 15 (14 to 16) | 30 | 8.52 |" in row
    assert list(wakes(every))[2].startswith("| test | GraphSplineNets, adaptive | 300 | 2 |")
    assert list(solvers(every))[2].endswith("| 205, 10 %, 50 | 98, 20 %, 5 |")
