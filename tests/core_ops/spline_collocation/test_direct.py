"""Without gradients on a CPU splines are solved and looked up in place: the same values."""

import pytest
import torch

from farfield.core_ops.spline_collocation import SplineCollocation, evaluate, lookup
from farfield.core_ops.spline_collocation.cell import ORDERS
from tests.core_ops.spline_collocation.samples import ENDS, inside, normal, partition, relative


@pytest.mark.parametrize("limit", [0, 10**9])
@pytest.mark.parametrize("cells", [1, 2, 3, 7, 8, 37])
def test_queries_at_knots_and_ends_belong_to_the_right_cell(
    cells: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LOOKED_UP", limit)
    knots = partition(4, cells + 1)
    inner = knots[:, 1:-1]
    x = torch.cat([knots, knots + 1e-9, knots - 1e-9], -1)
    expected = (x[..., None, :] >= inner[..., None]).sum(-2)
    assert torch.equal(evaluate.find(knots, x), expected)
    for q in (x[0].sort().values, x[0], x[0].flip(0)):
        assert torch.equal(evaluate.find(knots, q), (q >= inner[..., None]).sum(-2))
    assert torch.equal(evaluate.find(knots[0], x[0]), expected[0])
    single = knots.float()
    many = torch.cat([single, torch.nextafter(single, single - 1)], -1)
    assert torch.equal(evaluate.find(single, many), (many[..., None, :] >= single[:, 1:-1, None]).sum(-2))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_row_of_many_series_is_looked_up_apart(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        series = 6 * 4099
        knots = partition(series, 6).float()
        x = knots[:, :1] + torch.rand(series, 3, generator=torch.Generator().manual_seed(4)) * (
            knots[:, -1:] - knots[:, :1]
        )
        assert torch.equal(lookup.find(knots, x), (x[..., None, :] >= knots[:, 1:-1, None]).sum(-2))
        spline = SplineCollocation(knots, 3)
        # The first knot of a series is in no other's domain.
        line = torch.arange(series, dtype=torch.float32)[:, None] / series
        assert (spline(line.expand(-1, spline.size), x) - line).abs().max() < 1e-6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_solving_in_place_equals_solving_with_gradients(ends: str | tuple[str, str], order: int) -> None:
    for cells in (1, 2, 17):
        knots = partition(5, cells + 1)
        spline = SplineCollocation(knots, order, ends=ends)
        data, x = normal(5, spline.size), torch.cat([inside(knots, 21), knots], -1)
        leaf = data.clone().requires_grad_()
        coeffs = spline.fit(leaf)
        assert relative(spline.fit(data), coeffs.detach()) < 1e-14
        for derivative in (0, 1, 2):
            expected = spline.evaluate(coeffs, x, derivative).detach()
            # No cell is narrower than a tenth.
            bound = 3e-14 * coeffs.detach().abs().max() * (10 * order) ** derivative
            assert (spline.evaluate(coeffs.detach(), x, derivative) - expected).abs().max() < bound
            assert (spline(data, x, derivative) - expected).abs().max() < bound
        # Queries of each series on one partition, and queries for all on a partition each.
        one = SplineCollocation(knots[0], order, ends=ends)
        own = inside(knots[:1].expand(5, -1), 9)
        assert relative(one(data, own), one(leaf, own).detach()) < 3e-14
        few = inside(knots[0], 4).clamp(float(knots[:, 0].max()), float(knots[:, -1].min()))
        assert relative(spline(data, few), spline(leaf, few).detach()) < 3e-14


@pytest.mark.parametrize("order", ORDERS)
def test_float32_without_gradients_loses_no_more_than_with_them(order: int) -> None:
    knots = partition(200, 17).float()
    spline = SplineCollocation(knots, order)
    data, x = normal(200, spline.size).float(), inside(knots.double(), 50).float()
    x = x.clamp(knots[:, :1], knots[:, -1:])
    exact = SplineCollocation(knots.double(), order)(data.double(), x.double())
    errors = [
        ((y.double() - exact).norm() / exact.norm()).item()
        for y in (spline(data, x), spline(data.requires_grad_(), x).detach())
    ]
    assert 0 < errors[0] < 1.1 * errors[1] < 5e-7
