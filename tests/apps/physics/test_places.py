"""Coarse nodes and times: exact where splines are exact, held values exact always, the loss that of all nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.physics.adaptive import partitions, time_frames
from farfield.apps.physics.case import Case, Field, in_memory
from farfield.apps.physics.clock import Clock, clock_of, curve_matrix, fill_matrix, state_times, windows_of
from farfield.apps.physics.coarsen import choose
from farfield.apps.physics.equations.domain import Disk, Domain, triangulate
from farfield.apps.physics.places import places_of
from farfield.apps.physics.prepared import prepare, scales_of
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.sampling import line_matrix, sampling_matrix
from farfield.apps.physics.train import settings_of
from farfield.apps.training import UserError
from tests.apps.physics.small import solve
from tests.apps.physics.surrogates import MODEL, heat_cases, line_case


def settings(**values: object) -> dict[str, object]:
    return settings_of(MODEL | values, "model/graphspline")


def test_a_linear_field_is_reproduced_exactly_at_all_nodes_and_times() -> None:
    runs = Runs.of([line_case()])
    for order in (2, 3, 5):
        model = settings(order=order, cells=1, order_time=order, stride=4)
        places, _ = places_of(runs, model, runs)
        clock = clock_of(runs, model)
        whole = windows_of(clock, [clock.knots])
        states = (whole.fill[0][:, : len(runs.times)] @ places.started(runs.values[0]).flatten(1)).unflatten(1, (-1, 1))
        curve = torch.from_numpy(curve_matrix(clock, clock.knots, runs.times)).float()
        found = places.expanded((curve @ states.flatten(1)).unflatten(1, (-1, 1)))
        assert found.abs().max() > 2
        torch.testing.assert_close(found, runs.values[0], rtol=0, atol=5e-6)


def test_held_values_stay_exact_in_the_first_state() -> None:
    runs = Runs.of(heat_cases(2))
    places, _ = places_of(runs, settings(cells=2), runs)
    states = places.started(runs.values)
    assert places.held.sum() == 20
    torch.testing.assert_close(states[:, :, places.held], torch.full((2, 13, 20), 0.5), rtol=0, atol=1e-6)
    rim = torch.from_numpy(runs.held[:, 0])
    found = places.expanded(states)[:, :, rim]
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=1e-6)


def test_the_first_state_is_the_nearest_spline() -> None:
    runs = Runs.of(heat_cases(1), dirichlet=[])
    places, _ = places_of(runs, settings(cells=2), runs)
    u = runs.values[0, :1]
    best = (places.expanded(places.started(u)) - u).norm()
    for seed in range(3):
        other = places.started(u) + 1e-2 * torch.randn(places.count, 1, generator=torch.Generator().manual_seed(seed))
        assert (places.expanded(other) - u).norm() > best
    assert best < 0.1 * (places.expanded(places.sampled(u)) - u).norm() + u.norm()


def test_the_small_loss_differs_from_that_at_all_nodes_by_a_constant() -> None:
    runs = Runs.of(heat_cases(2))
    model = settings(cells=2, stride=4)
    places, _ = places_of(runs, model, runs)
    clock = clock_of(runs, model)
    scales = scales_of(runs, places, clock, False)
    prepared = prepare(runs, places, scales, model, torch.device("cpu"))
    windows = windows_of(clock, clock.windows(2))
    index = torch.tensor([[0, 7]])
    start, _, targets, kind = prepared.draw(index, windows)
    maps, weights = windows.curve[kind], windows.weights[kind]
    truth = scales.fields(runs.values)

    def direct(states: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for b, i in enumerate(index[0].tolist()):
            run, first = i // len(windows.first), int(windows.first[i % len(windows.first)])
            rows = (maps[0, b] @ states[0, b].flatten(1)).unflatten(1, (-1, 1))
            fine = places.expanded(rows) - truth[run, first + windows.frames[0]]
            fine = torch.where(torch.from_numpy(runs.held), 0.0, fine)
            total = total + fine.pow(2).mean((1, 2)).sum()
        return total / weights.sum()

    torch.manual_seed(0)
    gaps = []
    for _ in range(3):
        noise = 0.3 * torch.randn(1, 2, 7, *start.shape[-2:])
        states = start[:, :, None] + torch.where(places.held, 0.0, noise)
        gaps.append(float(direct(states) - prepared.loss(states, targets, maps, weights, False)[0]))
    assert max(gaps) - min(gaps) < 1e-5
    assert abs(gaps[0]) < float(direct(states))


def test_gradients_reach_the_states_through_both_splines() -> None:
    runs = Runs.of(heat_cases(2))
    model = settings(cells=1, stride=3)
    places, _ = places_of(runs, model, runs)
    clock = clock_of(runs, model)
    root, curve = places.root[0].double(), windows_of(clock, clock.windows(2)).curve[:1].double()  # type: ignore[union-attr]
    states = torch.randn(1, 7, places.count, 1, dtype=torch.float64, requires_grad=True)

    def fine(states: torch.Tensor) -> torch.Tensor:
        return root @ (curve @ states.flatten(-2)).unflatten(-1, states.shape[-2:])

    assert torch.autograd.gradcheck(fine, (states,))
    # Every coarse state but the inner ends of intervals matters at some frame, those ends at their own.
    (grad,) = torch.autograd.grad(fine(states).pow(2).sum(), states)
    assert (grad.abs().amax((0, 2, 3)) > 1e-6).all()


def test_polynomials_in_time_of_the_curves_degree_are_exact_on_uneven_intervals() -> None:
    times = np.linspace(0, 2, 21)
    clock = Clock(times, (0, 2, 7, 20), 3, False)
    at, through = state_times(clock, clock.knots)
    assert len(at) == 10
    assert through.sum() == 8
    cubic = 1 + at - at**2 + 0.5 * at**3
    np.testing.assert_allclose(curve_matrix(clock, clock.knots, times) @ cubic, 1 + times - times**2 + 0.5 * times**3)
    slope = curve_matrix(clock, clock.knots, times, 1) @ cubic
    np.testing.assert_allclose(slope, 1 - 2 * times + 1.5 * times**2, atol=1e-9)


def test_straight_lines_and_every_frame_are_the_identity() -> None:
    clock = Clock(np.linspace(0, 1, 6), tuple(range(6)), 1, True)
    np.testing.assert_allclose(curve_matrix(clock, clock.knots, clock.times), np.eye(6), atol=1e-12)


def test_windows_begin_at_any_frame_of_even_intervals_and_at_knots_of_others() -> None:
    times = np.linspace(0, 1, 11)
    even = Clock(times, (0, 3, 6, 9, 12), 3, True)
    assert [w[0] for w in even.windows(2)] == [0, 1, 2, 3, 4]
    assert Clock(times, (0, 1, 4, 10), 3, False).windows(2) == [(0, 1, 4), (1, 4, 10)]
    with pytest.raises(UserError, match=r"unroll=4.*no window"):
        even.windows(4)


def test_data_at_the_coarse_times_are_cubic_between_frames() -> None:
    known, asked = np.linspace(0, 1, 6), np.array([0.05, 0.51, 1.0])
    np.testing.assert_allclose(fill_matrix(known, asked) @ known**3, asked**3)


def test_sampling_is_exact_for_cubics_on_grids_and_lines_on_meshes() -> None:
    x = np.linspace(0, 1, 6)
    grid = np.stack(np.meshgrid(x, x**2, indexing="ij"), axis=-1).reshape(-1, 2)
    places = np.random.default_rng(0).uniform(0, 1, (7, 2))
    cubic = sampling_matrix(grid, places).numpy() @ (grid[:, 0] ** 3 * grid[:, 1])
    np.testing.assert_allclose(cubic, places[:, 0] ** 3 * places[:, 1], atol=1e-12)
    mesh = np.concatenate([grid, np.random.default_rng(1).uniform(0, 1, (30, 2))])
    np.testing.assert_allclose(sampling_matrix(mesh, places).numpy() @ (mesh @ [2.0, -1.0]), places @ [2.0, -1.0])
    with pytest.raises(UserError, match="outside"):
        sampling_matrix(mesh, np.array([[2.0, 0.5]]))


def test_a_circle_is_sampled_around_its_seam() -> None:
    known = np.arange(32) / 32
    found = line_matrix(known, np.array([0.99, -0.01]), 1.0) @ np.cos(2 * np.pi * known)
    np.testing.assert_allclose(found, np.cos(2 * np.pi * np.array([0.99, 0.01])), atol=1e-5)


def test_cells_gather_where_the_fields_are_steep() -> None:
    case = solve("heat", cells=[48, 48], frames=5, initial="mode", modes=1)
    runs = Runs.of([case])
    x = torch.from_numpy(runs.nodes[:, 0])
    steep = runs.values.clone()
    steep[...] = torch.tanh(30 * (x - 0.3)).float()[None, None, :, None]
    from dataclasses import replace

    knots, other = partitions(replace(runs, values=steep), [8, 8], 3, True)
    assert float(knots.diff().min()) < 0.5 / 8
    assert 0.15 < float(knots[1:-1][knots[1:].diff().argmin()]) < 0.45
    torch.testing.assert_close(other, torch.linspace(0, 1, 9, dtype=torch.float64))
    assert float(knots[0]) == 0
    assert float(knots[-1]) == 1


def test_steps_gather_where_the_runs_change_fast() -> None:
    runs = Runs.of([solve("heat", cells=[12, 12], frames=41, duration=1.0, diffusivity=0.3, modes=2)])
    frames = time_frames(runs, 5, 3)
    assert frames is not None
    assert frames[0] == 0
    assert frames[-1] == 40
    assert (np.diff(frames) > 0).all()
    assert frames[1] < frames[-1] - frames[-2]


def test_settings_that_do_not_fit_the_data_are_one_message() -> None:
    runs = Runs.of(heat_cases(1))
    for values, text in (
        ({"cells": [2, 2, 2]}, "model.cells"),
        ({"cells": 9}, "more than the 169"),
        ({"graph": "web"}, "model.graph=web"),
        ({"graph": "mesh"}, "model.graph=mesh needs"),
    ):
        with pytest.raises(UserError, match=text):
            places_of(runs, settings(**values), runs)
    for values, text in (({"stride": 13}, "model.stride=13"), ({"order_time": 9}, "model.order_time=9")):
        with pytest.raises(UserError, match=text):
            clock_of(runs, settings(**values))


def test_held_profiles_are_met_at_every_node() -> None:
    domain = Domain((1.0, 1.0), (Disk("disk", (0.5, 0.45), 0.2),))
    nodes, triangles = triangulate(domain, 0.1, 0.05)
    inflow = nodes[:, 1] * (1 - nodes[:, 1])
    rng = np.random.default_rng(5)
    u = np.repeat(inflow[None], 9, axis=0)
    boundary = domain.boundary(nodes)
    inside = np.setdiff1d(np.arange(len(nodes)), boundary["left"])
    u[:, inside] += rng.normal(size=(9, len(inside)))
    case = Case(
        name="inflow",
        nodes=nodes,
        cells={"triangle": triangles},
        times=np.linspace(0, 1, 9),
        fields={"u": Field("u", "m s-1")},
        reader=in_memory({"u": u[..., None]}),
        units={"x": "m", "t": "s"},
        boundary=boundary,
    )
    runs = Runs.of([case])
    assert runs.dirichlet == ("left",)
    places, _ = places_of(runs, settings(nodes=40), runs)
    assert places.chosen is not None
    assert 40 <= places.count <= 50
    assert np.isin(boundary["left"], places.chosen).all()
    assert len(boundary["left"]) > np.isin(boundary["left"], choose(nodes, case.cells, 40, boundary)).sum() > 0
    found = places.expanded(places.started(runs.values))[:, :, torch.from_numpy(boundary["left"])]
    torch.testing.assert_close(found, runs.values[:, :, torch.from_numpy(boundary["left"])], rtol=0, atol=1e-6)
