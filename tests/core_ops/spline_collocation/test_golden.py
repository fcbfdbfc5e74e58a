"""The splines equal the official ones where these are right; where they are not, the test says what is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from farfield.core_ops.spline_collocation import SplineCollocation, TensorCollocation
from tests.golden import golden

SIZES = ["N1_r2", "N1_r3", "N2_r4", "N3_r3", "N3_r6", "N4_r3", "N4_r5", "N5_r4", "N8_r3"]
LINES = [f"osc1d_uniform_{s}" for s in SIZES] + [f"osc1d_nonuniform_{s}" for s in SIZES if "N1" not in s]
GRIDS = ["osc2d_ref_nx2_ny2", "osc2d_ref_nx3_ny3", "osc2d_ref_nx3_ny5", "osc2d_ref_nx4_ny4"]
TENSORS = ["osc2d_tensor_nx3_ny4_r3", "osc2d_tensor_nx2_ny3_r4", "osc2d_tensor_nx2_ny2_r5"]


def _far(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    assert expected.abs().max() > 1e-3, "an all-zero output would pass"
    return (y - expected).abs().max().item()


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("impl", ["operator", "torch"])
def test_lines_equal_the_official_ones(name: str, impl: str) -> None:
    t, facts = golden("graphspline", name)
    atol = facts["atol_suggested"]
    spline = SplineCollocation(t["partition"], facts["r"])
    assert _far(spline.points, t["collocation"]) < 1e-15
    data = torch.cat([t["b"][:1], t["y"], t["b"][1:]]).T.clone().requires_grad_()
    values = spline(data, t["xq"], impl=impl)
    assert _far(values.T, t["values"]) < atol
    # The official operator's derivative carries its error divided by the width of a cell.
    width = spline.knots.diff().min().item()
    assert _far(spline(data, t["xq"], 1, impl=impl).T, t["derivative"]) < 20 * atol / width
    (grad,) = torch.autograd.grad(values, data, t["cotangent"].expand_as(values))
    assert _far(grad[0], t["grad_data_true"]) < 10 * atol
    assert _far(grad[0, 1:-1], t["grad_y"][:, 0]) < 10 * atol
    assert _far(spline.operator(t["xq"]), t["operator"]) < atol


@pytest.mark.parametrize("name", ["osc1d_adaptive_N3_r4", "osc1d_adaptive_N4_r3"])
def test_moved_points_on_a_line_equal_the_official_ones(name: str) -> None:
    t, facts = golden("graphspline", name)
    points, y = t["collocation"].clone().requires_grad_(), t["y"].clone().requires_grad_()
    spline = SplineCollocation(t["partition"], facts["r"], points=points)
    values = spline(torch.cat([t["b"][:1], y, t["b"][1:]]), t["xq"])
    assert _far(values, t["values"]) < 1e-10
    grads = torch.autograd.grad(values, (y, points), t["cotangent"])
    assert _far(grads[0], t["grad_y"]) < 1e-9
    # The official solve loses up to 1e-11 of the values, and these gradients are hundreds.
    assert _far(grads[1], t["grad_collocation"]) < 1e-8


def _square(t: dict[str, Tensor]) -> tuple[TensorCollocation, Tensor, Tensor]:
    partition = t["partition"]
    x, y = (SplineCollocation(p.clone(), 3) for p in (partition[:, 0, 0], partition[0, :, 1]))
    z = t["z"].clone().requires_grad_()
    # (cell, cell, point, point) to a grid, and its zero boundary around it.
    return TensorCollocation(x, y), z, F.pad(z.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), (1, 1, 1, 1))


@pytest.mark.parametrize("name", GRIDS)
def test_squares_equal_the_official_ones(name: str) -> None:
    t, _ = golden("graphspline", name)
    field, z, data = _square(t)
    values = field(data, t["xq"], t["yq"])
    assert _far(values, t["values"]) < 1e-13
    (grad,) = torch.autograd.grad(values, z, t["cotangent"])
    assert _far(grad, t["grad_z"]) < 1e-12
    # The official evaluation on its own grid is right in the first cell only: it leaves the zero boundary at x = 1.
    grid = [torch.linspace(0, 1, n, dtype=torch.float64) for n in t["grid_values"].shape]
    ours = field(data, *grid)
    assert _far(ours[:8, :8], t["grid_values"][:8, :8]) < 1e-13
    assert ours[-1].abs().max() < 1e-13
    assert t["grid_values"][-1].abs().max() > 1e-3


@pytest.mark.parametrize("name", TENSORS)
def test_any_order_and_boundary_in_two_dimensions(name: str) -> None:
    t, facts = golden("graphspline", name)
    axes = [
        SplineCollocation(torch.linspace(0, 1, facts[n] + 1, dtype=torch.float64), facts["r"]) for n in ("nx", "ny")
    ]
    field = TensorCollocation(*axes)
    assert _far(field.nodes[0], t["x_nodes"]) < 1e-15
    assert _far(axes[1].operator(t["yq"]), t["operator_y"]) < 1e-11
    data = t["data"].clone().requires_grad_()
    values = field(data, t["xq"], t["yq"])
    assert _far(values, t["values"]) < 1e-10
    (grad,) = torch.autograd.grad(values, data, t["cotangent"])
    assert _far(grad, t["grad_data"]) < 1e-10
    spline = field(t["analytic_data"], t["xq"], t["yq"])
    assert _far(spline, t["analytic_values_spline"]) < 1e-10
    assert _far(spline, t["analytic_values_true"]) == pytest.approx(facts["analytic_max_err"], rel=1e-4)


@pytest.mark.parametrize("name", ["osc2d_adaptive_nx3_ny3", "osc2d_adaptive_nx2_ny4"])
def test_moved_points_in_a_square_equal_the_official_ones(name: str) -> None:
    t, _ = golden("graphspline", name)
    field, z, data = _square(t)
    moved = t["collocation"].clone().requires_grad_()
    grid = torch.stack(torch.meshgrid(*field.nodes, indexing="ij"), -1)
    inner = moved.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    rows = torch.cat([grid[1:-1, :1], inner, grid[1:-1, -1:]], 1)
    coeffs = field.fit_moved(torch.cat([grid[:1], rows, grid[-1:]]), data)
    values = field.at(coeffs, t["query"])
    assert _far(values, t["values"]) < 1e-13
    grads = torch.autograd.grad(values, (z, moved), t["cotangent"])
    assert _far(grads[0], t["grad_z"]) < 1e-12
    assert _far(grads[1], t["grad_collocation"]) < 1e-11


@pytest.mark.parametrize("dim", [2, 3])
def test_equispaced_points_in_time_equal_the_shipped_ones(dim: int) -> None:
    t, _ = golden("graphspline", f"time_osc_shipped_dim{dim}_T13")
    spline = SplineCollocation([0.0, 1.0], dim, points=t["c"])
    data = t["node_feat"].T.clone().requires_grad_()
    values = spline(data, t["x"])
    assert _far(values.T, t["pred"]) < 1e-13
    # The official code detaches the last state: its gradients lack what this column has.
    assert torch.autograd.grad(values.square().sum(), data)[0][:, -1].abs().min() > 0


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
def test_polynomials_equal_the_official_ones(order: int) -> None:
    t, _ = golden("graphspline", "osc1d_analytic")
    spline = SplineCollocation(torch.linspace(0, 1, 4, dtype=torch.float64), order)
    powers = torch.arange(order + 1)
    data = (spline.nodes[:, None] ** powers) @ t[f"poly_r{order}_coef"]
    assert _far(spline(data, t["x"]), t[f"poly_r{order}_values"]) < 1e-13


def test_errors_converge_as_the_official_ones_in_float64() -> None:
    _, facts = golden("graphspline", "osc1d_analytic")
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    cases = [c for c in facts["convergence_reference_fp64"] if c["f"] == "sin3pi"]
    assert len(cases) > 10
    for case in cases:
        spline = SplineCollocation(torch.linspace(0, 1, case["N"] + 1, dtype=torch.float64), case["r"])
        error = (spline(torch.sin(3 * torch.pi * spline.nodes), x) - torch.sin(3 * torch.pi * x)).abs().max().item()
        assert error <= 1.02 * case["max_err"]


def test_float32_does_not_fail_where_the_official_code_does() -> None:
    _, facts = golden("graphspline", "reference_fp32_failures")
    x = torch.linspace(0, 1, 2001)
    for case in facts["cases"]:
        knots = torch.linspace(0, 1, case["N"] + 1, dtype=torch.float64)
        wide = SplineCollocation(knots, case["r"])
        data = torch.sin(3 * torch.pi * wide.nodes)
        truth = wide(data, x.double())
        for impl in ("operator", "torch"):
            ours = SplineCollocation(knots.float(), case["r"])(data.float(), x, impl=impl)
            assert _far(ours.double(), truth) < 5e-7
