"""Solve and evaluation in one GPU kernel, a partition for each series: the operator, its gradient and its limits.

Shapes: B series; N cells of order r; full (B, N (r - 1) + 2), a data vector with an entry for both ends; knots
(B or 1, N + 1); x (B or 1, Q); v (B, N + 1), the values at the knots.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..banded.batch import broadcast
from .cell import gauss
from .ends import Ends, end_values
from .kernel_cuda import Plan, launch_backward, launch_forward

if TYPE_CHECKING:
    from .op import Call

# Cells that a warp holds of one series.
CELLS = 256


def plan(full: Tensor, knots: Tensor, order: int, left_slope: bool, right_slope: bool, derivative: int) -> Plan:
    """The kernel of a call."""
    return Plan(order, left_slope, right_slope, derivative, full.dtype == torch.float64, knots.shape[-1] - 1)


@torch.library.custom_op("farfield::spline_interpolate", mutates_args=())
def forward(
    full: Tensor, knots: Tensor, x: Tensor, order: int, left_slope: bool, right_slope: bool, derivative: int
) -> tuple[Tensor, Tensor]:
    """S(x) (B, Q) and v (B, N + 1)."""
    y, v = x.new_empty(full.shape[0], x.shape[-1]), full.new_empty(full.shape[0], knots.shape[-1])
    launch_forward(plan(full, knots, order, left_slope, right_slope, derivative), full, knots, x, y, v)
    return y, v


@forward.register_fake
def _(
    full: Tensor, knots: Tensor, x: Tensor, order: int, left_slope: bool, right_slope: bool, derivative: int
) -> tuple[Tensor, Tensor]:
    return x.new_empty(full.shape[0], x.shape[-1]), full.new_empty(full.shape[0], knots.shape[-1])


@torch.library.custom_op("farfield::spline_interpolate_backward", mutates_args=())
def backward(
    g: Tensor,
    full: Tensor,
    knots: Tensor,
    x: Tensor,
    v: Tensor,
    order: int,
    left_slope: bool,
    right_slope: bool,
    derivative: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of full (B, ..), of the knots (B, N + 1) and of x (B, Q), for every series."""
    d_full, d_knots = torch.empty_like(full), full.new_empty(full.shape[0], knots.shape[-1])
    d_x = torch.empty_like(g)
    outputs = (d_full, d_knots, d_x)
    launch_backward(plan(full, knots, order, left_slope, right_slope, derivative), g, full, knots, x, v, outputs)
    return outputs


@backward.register_fake
def _(g: Tensor, full: Tensor, knots: Tensor, x: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(full), full.new_empty(full.shape[0], knots.shape[-1]), torch.empty_like(g)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    full, knots, x, *ctx.options = inputs
    ctx.save_for_backward(full, knots, x, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Any, ...]:
    full, knots, x, v = ctx.saved_tensors
    d_full, d_knots, d_x = backward(g.contiguous(), full, knots, x, v, *ctx.options)
    return d_full, d_knots.sum_to_size(knots.shape), d_x.sum_to_size(x.shape), None, None, None, None


forward.register_autograd(_backward, setup_context=_setup)


def interpolate(data: Tensor, knots: Tensor, x: Tensor, order: int, ends: Ends, derivative: int) -> Tensor:
    """S(x): the operator on flattened batches.

    Args:
        data: (..., size). knots: (..., N + 1). x: (..., Q). Batch dimensions broadcast.
    Returns: (..., Q).
    """
    batch = broadcast(data.shape[:-1], knots.shape[:-1], x.shape[:-1])
    n = knots.shape[-1] - 1
    knots, x = knots.to(data.dtype), x.to(data.dtype)
    full = data
    # A free end gets the value that its polynomial has there.
    if "free" in (ends.left, ends.right):
        first, last = ends.given
        y = data[..., first : data.shape[-1] - last].reshape(*data.shape[:-1], n, order - 1)
        cell = gauss(order).to(data)
        values = [full]
        if ends.left == "free":
            values.insert(0, end_values(y, knots.diff(), cell, order, True)[..., None])
        if ends.right == "free":
            values.append(end_values(y, knots.diff(), cell, order, False)[..., None])
        lead = broadcast(*(t.shape[:-1] for t in values))
        full = torch.cat([t.expand(*lead, t.shape[-1]) for t in values], -1)
    rows = full.expand(*batch, full.shape[-1]).reshape(batch.numel(), full.shape[-1]).contiguous()

    def flat(t: Tensor) -> Tensor:
        # One row serves all series; otherwise each has its own.
        if t.shape[:-1].numel() == 1:
            return t.reshape(1, t.shape[-1]).contiguous()
        return t.expand(*batch, t.shape[-1]).reshape(batch.numel(), t.shape[-1]).contiguous()

    slopes = (ends.left == "neumann", ends.right == "neumann")
    out: Tensor = forward(rows, flat(knots), flat(x), order, *slopes, derivative)[0]
    return out.reshape(*batch, x.shape[-1])


def absent(device: str) -> str | None:
    """What a device lacks to run the kernels."""
    if device != "cuda":
        return f"data are on {device}; the kernel runs on NVIDIA GPUs, take impl='torch'."
    if find_spec("cuda") is None or find_spec("cuda.core") is None:
        return "the package cuda-core is missing: pip install 'farfield[cuda]', or take impl='torch'."
    return None


def refuses(call: "Call") -> str | None:
    """Why the kernel cannot run a call."""
    missing = absent(call.device)
    if missing is not None:
        return missing
    if not call.gauss or call.ends.periodic:
        return "points of one's own and periodic ends have no kernel; take impl='torch'."
    if call.cells > CELLS:
        return f"{call.cells} cells; the kernel holds up to {CELLS} in a warp, take impl='torch'."
    if call.numbers >= 2**31:
        return "2^31 numbers or more; take impl='torch', or fewer series at once."
    return None
