"""Fields at any place and time, and how far they can be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.apps.physics import field as field_module
from farfield.apps.physics.case import Quantity
from farfield.apps.physics.field import Field
from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.times import TimeMap
from farfield.apps.physics.trust import calibrate, coverage, judged
from farfield.apps.training import UserError
from farfield.core_ops.errors import DomainError, ShapeError

SPACE = Rectangle([[0, 0.2, 0.5, 1.0], [0, 0.7, 2.0]])
TIME = TimeMap.collocation([0, 1, 3.0])


def flow(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Two components, cubic in everything: (x^3 - 2 x y^2 + y^3 t + t^3, x y t)."""
    return torch.stack([x**3 - 2 * x * y**2 + y**3 * t + t**3, x * y * t], -1)


def exact(members: int = 1) -> Field:
    """The field of `flow`; members around it differ by a known amount."""
    values = flow(SPACE.nodes[:, 0][None], SPACE.nodes[:, 1][None], TIME.nodes[:, None])
    if members > 1:
        values = torch.stack([values + (k - (members - 1) / 2) for k in range(members)])
    return Field(SPACE, TIME, values, ["u", "v"], {"u": "K", "v": "1", "x": "m", "t": "s"})


def asked(count: int = 500) -> tuple[Tensor, Tensor]:
    """Points and times in no order, some of them twice."""
    g = torch.Generator().manual_seed(0)
    p = torch.rand(count, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 2.0])
    t = 3 * torch.rand(count, generator=g, dtype=torch.float64)
    p[1], t[1], t[2] = p[0], t[0], t[0]
    return p, t


def test_values_are_exact_at_unsorted_and_repeated_times() -> None:
    p, t = asked()
    assert (exact()(p, t) - flow(*p.T, t)).abs().max() < 1e-11
    assert torch.equal(exact()(p, t)[0], exact()(p, t)[1])
    assert (exact()(p.tolist(), 1.5) - flow(*p.T, torch.tensor(1.5))).abs().max() < 1e-11


def test_derivatives_in_space_and_time_are_exact() -> None:
    p, t = asked()
    x, y = p.T
    assert (exact()(p, t, (1, 0))[:, 0] - (3 * x**2 - 2 * y**2)).abs().max() < 1e-10
    assert (exact()(p, t, (0, 1), 1)[:, 0] - 3 * y**2).abs().max() < 1e-9
    assert (exact()(p, t, None, 2)[:, 0] - 6 * t).abs().max() < 1e-9


def test_frames_equal_points_one_by_one() -> None:
    p, _ = asked(7)
    times = torch.tensor([2.0, 0.0, 2.0])
    found = exact().frames(p, times)
    assert torch.allclose(found[1], exact()(p, 0.0), atol=1e-12)
    assert torch.equal(found[0], found[2])


def test_a_table_that_is_too_large_is_made_cell_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    p, t = asked()
    monkeypatch.setattr(field_module, "TABLE", 0)
    assert (exact()(p, t) - flow(*p.T, t)).abs().max() < 1e-11


def test_single_precision_keeps_small_differences_on_a_large_mean() -> None:
    values = exact().values.float() * 1e-3 + 300
    p, t = asked()
    found = Field(SPACE, TIME, values, ["u", "v"])(p, t)
    assert found.dtype == torch.float32
    assert (found.double() - 300 - 1e-3 * flow(*p.T, t)).abs().max() < 1e-4


def test_the_flux_out_of_a_closed_curve_is_the_integral_of_the_divergence() -> None:
    x0, x1, y0, y1 = 0.2, 0.8, 0.3, 1.5
    curve = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    t = torch.tensor([1.0, 2.0], dtype=torch.float64)
    area = (x1 - x0) * (y1 - y0)
    divergence = (x1**3 - x0**3) * (y1 - y0) - 2 / 3 * (y1**3 - y0**3) * (x1 - x0) + t * area * (x0 + x1) / 2
    assert (exact().flux(curve, t, ["u", "v"]) - divergence).abs().max() < 1e-11
    laplacian = (6 - 4) * area * (x0 + x1) / 2 + 3 * t * (y1**2 - y0**2) * (x1 - x0)
    assert (exact().flux(curve, t, "u", coefficient=0.5) + 0.5 * laplacian).abs().max() < 1e-10
    assert (exact().flux(curve[::-1], t, ["u", "v"]) + divergence).abs().max() < 1e-11


def test_integrals_over_the_domain_are_exact() -> None:
    t = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = exact().integral(t)
    assert (found[:, 0] - (0.5 - 8 / 3 + 4 * t + 2 * t**3)).abs().max() < 1e-11
    assert (found[:, 1] - t).abs().max() < 1e-11


def test_what_lies_outside_is_refused() -> None:
    field = exact()
    with pytest.raises(DomainError, match="1 of 2 points lie outside"):
        field([[0.5, 0.5], [0.5, 2.5]], 1.0)
    for t in (-0.1, 3.1, float("nan")):
        with pytest.raises(DomainError, match=r"1 of 2 times lie outside of \[0, 3\], the first, number 1"):
            field([[0.5, 0.5]] * 2, [1.0, t])
    with pytest.raises(ShapeError, match="2 times came for 3 points"):
        field([[0.5, 0.5]] * 3, [1.0, 2.0])
    with pytest.raises(ShapeError, match="in a plane"):
        field.flux([[0, 0], [1, 1]], 1.0, "w")
    with pytest.raises(DomainError, match="NaN"):
        Field(SPACE, TIME, torch.full_like(field.values, float("nan")), ["u", "v"])
    with pytest.raises(ShapeError, match="needed"):
        Field(SPACE, TIME, field.values[:-1], ["u", "v"])


def test_the_error_is_the_spread_times_the_factor() -> None:
    p, t = asked()
    field = exact(3)
    assert (field(p, t) - flow(*p.T, t)).abs().max() < 1e-11
    assert (field.error(p, t) - 1).abs().max() < 1e-9
    sure = Field(
        SPACE, TIME, field.members, ["u", "v"], factor=torch.tensor([1.0, 3.0]), tolerance=torch.tensor([2.0, 2])
    )
    assert not sure.trust(p, t).any()
    sure.tolerance = torch.tensor([2.0, 3.5])
    assert sure.trust(p, t).all()
    with pytest.raises(ShapeError, match="one member"):
        exact().error(p, t)
    with pytest.raises(ShapeError, match="tolerance"):
        field.trust(p, t)


def test_a_file_gives_the_same_field(tmp_path: Path) -> None:
    p, t = asked()
    field = Field(
        SPACE, TIME, exact(3).members, ["u", "v"], {"u": "K"}, torch.ones(2), torch.ones(2), {"nu": Quantity(0.1, "1")}
    )
    field.save(tmp_path / "f.safetensors")
    again = Field.load(tmp_path / "f.safetensors")
    assert torch.equal(again(p, t), field(p, t))
    assert torch.equal(again.error(p, t), field.error(p, t))
    assert (again.names, again.units, again.static) == (field.names, field.units, field.static)
    (tmp_path / "f.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as a field"):
        Field.load(tmp_path / "f.safetensors")


def test_a_calibrated_error_covers_other_runs() -> None:
    """Runs differ in how well they are known; errors are three times as large as members tell."""
    rng = np.random.default_rng(0)

    def runs(count: int) -> tuple[list[Tensor], list[Tensor]]:
        errors, spreads = [], []
        for _ in range(count):
            spread = np.exp(rng.normal(size=(400, 2)))
            told = 3 * np.exp(0.3 * rng.normal())
            errors.append(torch.from_numpy(np.abs(told * spread * rng.normal(size=(400, 2)))))
            spreads.append(torch.from_numpy(spread))
        return errors, spreads

    factor = calibrate(*runs(40), coverage=0.9)
    shares = coverage(*runs(200), factor)
    # Of 200 other runs about nine in ten have nine tenths of their places covered: 0.9 +- 4 sqrt(0.09 / 40).
    assert ((shares >= 0.9).double().mean(0) > 0.7).all()
    assert (coverage(*runs(200), torch.ones(2)).mean(0) < 0.5).all()


def test_what_cannot_calibrate_is_refused() -> None:
    one = torch.ones(5, 2)
    assert torch.allclose(calibrate([one], [one / 2]), torch.tensor([2.0, 2.0], dtype=torch.float64))
    with pytest.raises(ShapeError, match="0 runs"):
        calibrate([], [])
    with pytest.raises(ShapeError, match="shape"):
        calibrate([one], [one[:3]])
    with pytest.raises(DomainError, match="blew up"):
        calibrate([one * float("inf")], [one])
    with pytest.raises(DomainError, match="coverage=1"):
        calibrate([one], [one], 1)


def test_what_is_trusted_errs_less_and_is_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5, 400, 2, generator=generator, dtype=torch.float64)
    # Of a run, one half of the nodes is known ten times better than the other; members differ as they err.
    size = torch.where(torch.arange(400) < 200, 0.01, 0.1)[:, None]
    members = truth + size * torch.randn(3, 5, 400, 2, generator=generator, dtype=torch.float64)
    free = torch.arange(400) % 2 == 0
    found = judged([members] * 2, [truth] * 2, [free] * 2, torch.full((2,), 6.0), torch.full((2,), 0.2), torch.ones(2))
    assert 0.9 < found["covered_worst"] <= found["covered"] <= 1
    assert 0.45 < found["trusted"] < 0.6
    assert found["untrusted_error"] > 4 * found["trusted_error"] > 0.01
    none = judged([members], [truth], [free], torch.ones(2), torch.zeros(2), torch.ones(2))
    assert none["trusted"] == 0
    assert np.isnan(none["trusted_error"])
