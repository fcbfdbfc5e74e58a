"""Finite elements converge to closed forms, on the square and round a hole; nothing passes the wall."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations.domain import Disk, Domain, triangulate
from farfield.apps.physics.equations.fem_space import Quadratic
from farfield.apps.physics.equations.heat_domain import Decay
from farfield.apps.training import UserError
from tests.apps.physics.small import solve

OPEN = {"hole_radius": 0.0, "wall_low": None, "wall_high": None}
COARSE = {"triangle": 0.1, "triangle_at_obstacles": 0.05, "frames": 5}


def space(size: float, *obstacles: Disk) -> Quadratic:
    domain = Domain((1.0, 1.0), obstacles)
    return Quadratic(domain, *triangulate(domain, size))


def test_a_mode_of_the_square_converges_with_the_third_power_of_the_triangles() -> None:
    errors = []
    for size in (0.2, 0.1, 0.05):
        fem = space(size)
        held = np.unique(np.concatenate(list(fem.parts.values())))
        free = np.setdiff1d(np.arange(fem.size), held)
        decay = Decay(fem.mass[free][:, free], fem.stiffness[free][:, free], 0.01)
        start = np.prod(np.sin(np.pi * fem.points), axis=1)
        found = start[free]
        for _ in range(5):
            found = decay.step(found)
        error = np.zeros(fem.size)
        error[free] = found - start[free] * np.exp(-2 * np.pi**2 * 0.05)
        errors.append(np.sqrt(error @ fem.mass @ error))
    assert np.log2(errors[0] / errors[2]) / 2 > 2.8
    assert errors[2] < 2e-6


def test_time_steps_are_of_fifth_order() -> None:
    from scipy.linalg import expm

    fem = space(0.25)
    rate = np.linalg.solve(fem.mass.toarray(), fem.stiffness.toarray())
    start = np.cos(np.pi * fem.points[:, 0])
    errors = []
    for steps in (2, 4):
        decay, u = Decay(fem.mass, fem.stiffness, 0.2 / steps), start
        for _ in range(steps):
            u = decay.step(u)
        errors.append(np.abs(u - expm(-0.2 * rate) @ start).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.4)


def test_sides_follow_the_hole() -> None:
    areas = [space(size, Disk("hole", (0.5, 0.5), 0.2)).weights.sum() - (1 - np.pi * 0.04) for size in (0.1, 0.05)]
    assert abs(areas[1]) < 2e-6
    assert np.log2(abs(areas[0] / areas[1])) > 3.5


def test_the_steady_field_round_a_hole_is_the_logarithm() -> None:
    """Held at ln r on every boundary, ln r is harmonic between them."""
    errors = []
    for size in (0.1, 0.05):
        fem = space(size, Disk("hole", (0.5, 0.5), 0.2))
        held = np.unique(np.concatenate(list(fem.parts.values())))
        free = np.setdiff1d(np.arange(fem.size), held)
        expected = np.log(np.hypot(*(fem.points - 0.5).T))
        found, matrix = expected.copy(), fem.stiffness.toarray()
        found[free] = np.linalg.solve(matrix[np.ix_(free, free)], -matrix[np.ix_(free, held)] @ expected[held])
        errors.append(np.abs(found - expected).max())
    assert errors[1] < 2e-4
    assert np.log2(errors[0] / errors[1]) > 2


def test_heat_settles_where_the_boundary_holds_it() -> None:
    case = solve("heat-domain", **COARSE, duration=20.0, outer=3.0, hole="insulated", wall=3.0)
    assert np.abs(case.read("u")[-1] - 3).max() < 1e-6
    assert np.abs(case.read("u")[1:, case.boundary["wall"]] - 3).max() < 1e-12


def test_the_square_alone_is_the_exact_heat() -> None:
    """Steady and swinging sources against the sine modes."""
    values = {
        "initial": "mode",
        "modes": 1,
        "amplitude": 0.0,
        "forcing": 2.0,
        "forcing_frequency": 3.0,
        "duration": 0.5,
    }
    found = solve("heat-domain", **OPEN, **(COARSE | {"triangle": 0.05}), **values, wall="insulated", hole="insulated")
    exact = solve("heat", cells=[8, 8], frames=5, **values)
    pairs = np.hypot(*(found.nodes[:, None] - exact.nodes[None]).T).T
    shared = np.argwhere(pairs < 1e-9)
    for t in range(5):
        u = found.read("u")[t, :, 0]
        x, y = found.nodes.T
        middle = exact.read("u")[t, 4 * 9 + 4, 0]
        assert np.abs(u - middle * np.sin(np.pi * x) * np.sin(np.pi * y)).max() < 3e-5
    assert len(shared)


def test_little_heat_comes_round_the_wall() -> None:
    """A wall that reaches nearly across parts hot from cold; without it they mix at once."""
    walled = {"hole_radius": 0.0, "wall_low": [0.49, 0.02], "wall_high": [0.51, 0.98]}
    values = {
        **COARSE,
        "outer": "insulated",
        "hole": "insulated",
        "wall": "insulated",
        "duration": 0.5,
        "diffusivity": 0.05,
    }
    sides = []
    for geometry in (walled, OPEN):
        case = solve("heat-domain", **geometry, **values, initial="mode", modes=1)
        left = case.nodes[:, 0] < 0.5
        sides.append(float(np.ptp(case.read("u")[-1, left])))
    walled_case = solve("heat-domain", **walled, **values, initial="mode", modes=1)
    u, (x, y) = walled_case.read("u")[-1, :, 0], walled_case.nodes.T
    at_wall = [np.flatnonzero((np.abs(x - side) < 1e-9) & (np.abs(y - 0.2) < 0.05))[0] for side in (0.49, 0.51)]
    assert abs(u[at_wall[0]] - u[at_wall[1]]) > 0.1, "the wall's two sides differ"
    assert sides[0] > 0.1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"wall_low": None}, "both corners"),
        ({"wall_high": [0.5, 0.5]}, "right of and above"),
        ({"hole": "warm"}, "the word insulated"),
        ({"outer": "insulated", "hole": "insulated", "forcing": 1.0}, "heats without end"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        solve("heat-domain", **COARSE, **values)


def test_sides_that_swing_drive_the_closed_form() -> None:
    values = {
        "diffusivity": 1.0,
        "duration": 3.0,
        "outer": 2.0,
        "outer_swing": 0.5,
        "swing_frequency": 1.3,
        "wall": "insulated",
    }
    case = solve("heat-domain", **OPEN, **(COARSE | {"triangle": 0.05}), **values, initial="mode", modes=1)
    turn = 2j * np.pi * 1.3
    m = np.arange(1, 400, 2)
    modes = 16 / (np.pi**2 * m[:, None] * m) * turn / (turn + np.pi**2 * (m[:, None] ** 2 + m**2))
    x, y = (np.sin(np.pi * m * case.nodes[:, k, None]) for k in range(2))
    amplitude = 0.5 * (1 - np.einsum("nk,kl,nl->n", x, modes, y))
    for i in (2, 4):
        expected = 2 + (amplitude * np.exp(turn * case.times[i])).real
        assert np.abs(case.read("u")[i, :, 0] - expected).max() < 2e-3 * 0.5
    signal, units = case.signals["outer"]
    np.testing.assert_allclose(signal, 2 + 0.5 * np.cos(2 * np.pi * 1.3 * case.times), rtol=0, atol=1e-14)
    assert units == "K"
    np.testing.assert_allclose(
        case.read("u")[:, case.boundary["left"], 0], np.tile(signal[:, None], len(case.boundary["left"]))
    )


@pytest.mark.parametrize(
    "values", [{"wall_swing": 1.0}, {"hole_swing": 1.0, "hole": "insulated"}, {"outer_swing": 1.0}]
)
def test_what_cannot_swing_is_refused(values: dict[str, float]) -> None:
    given = {"swing_frequency": 0.0 if "outer_swing" in values else 1.0, "wall": "insulated"}
    with pytest.raises(UserError, match="swing"):
        solve("heat-domain", **COARSE, **(given | values))
