"""The equation itself as a part of the loss: what the splines' own derivatives leave over of it.

Shapes: K members, B samples, X states and F frames of a window, n coarse nodes, C components, P places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.apps.physics.clock import Windows
from farfield.apps.physics.graphsplinenets import Known
from farfield.apps.physics.places import Places
from farfield.apps.physics.prepared import Scales
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError

# Places in space at which the equation is looked at, spread over the nodes of the data.
PLACES = 256


@dataclass(frozen=True)
class Local:
    """A field and its derivatives at some places and times, physical: all (K, B, F, P, C), `grad` (.., C, D).

    Args:
        u, u_t, laplacian, grad: Values, rate of change, second derivatives' sum, first derivatives.
        inputs: (K, B, F, P, I) by name of the input.
        parameter: Gives a parameter of the runs as (K, B, 1, 1).
    """

    u: Tensor
    u_t: Tensor
    laplacian: Tensor
    grad: Tensor
    inputs: dict[str, Tensor]
    parameter: Callable[[str], Tensor]


def heat(x: Local) -> Tensor:
    """u_t - D lap u - f."""
    return x.u_t - x.parameter("diffusivity")[..., None] * x.laplacian - x.inputs.get("forcing", 0.0)


def wave(x: Local) -> Tensor:
    """u_t - v and v_t + g v - c^2 lap u - f."""
    u_t, v_t = x.u_t.unbind(-1)
    push = x.inputs["forcing"][..., 0] if "forcing" in x.inputs else 0.0
    second = x.parameter("damping") * x.u[..., 1] - x.parameter("speed") ** 2 * x.laplacian[..., 0]
    return torch.stack([u_t - x.u[..., 1], v_t + second - push], -1)


def burgers(x: Local) -> Tensor:
    """u_t + u u_x - nu u_xx - f."""
    carried = x.u * x.grad[..., 0]
    return x.u_t + carried - x.parameter("viscosity")[..., None] * x.laplacian - x.inputs.get("forcing", 0.0)


def navier_stokes(x: Local) -> Tensor:
    """u_t + (u . grad) u + grad p / rho - nu lap u - f, and div u, for the components u_x, u_y, p."""
    speed = x.u[..., :2]
    carried = (x.grad[..., :2, :] * speed[..., None, :]).sum(-1)
    push = x.grad[..., 2, :] / x.parameter("density")[..., None]
    drawn = x.parameter("viscosity")[..., None] * x.laplacian[..., :2]
    momentum = x.u_t[..., :2] + carried + push - drawn - x.inputs.get("forcing", torch.zeros(2, device=x.u.device))
    return torch.cat([momentum, (x.grad[..., 0, 0] + x.grad[..., 1, 1])[..., None]], -1)


# Equation: its residual, its fields with their components, its parameters.
EQUATIONS: dict[str, tuple[Callable[[Local], Tensor], tuple[tuple[str, int], ...], tuple[str, ...]]] = {
    "heat": (heat, (("u", 1),), ("diffusivity",)),
    "heat-domain": (heat, (("u", 1),), ("diffusivity",)),
    "wave": (wave, (("u", 1), ("v", 1)), ("speed", "damping")),
    "burgers": (burgers, (("u", 1),), ("viscosity",)),
    "navier-stokes": (navier_stokes, (("u", 2), ("p", 1)), ("viscosity", "density")),
}


class Residual:
    """Mean square of an equation's residual, in units of the mean square of the fields' rate of change.

    Args:
        weight: Factor in the loss. train: The runs. places, scales: Of the network.
    Raises: UserError: no residual is known for these runs, or they lack a field or parameter.
    """

    def __init__(self, weight: float, train: Runs, places: Places, scales: Scales, device: torch.device) -> None:
        if train.equation not in EQUATIONS:
            raise UserError(
                f"trainer.residual={weight}: the runs are of the equation {train.equation}; a residual is known for"
                f" {', '.join(EQUATIONS)}; leave it at 0"
            )
        self.equation, fields, names = EQUATIONS[train.equation]
        missing = [n for n in names if n not in train.parameters]
        if train.fields != fields or missing:
            raise UserError(
                f"trainer.residual={weight}: {train.equation} needs fields=[{','.join(n for n, _ in fields)}] and the"
                f" parameters {', '.join(names)}; the runs have {', '.join(dict(train.fields))} and"
                f" {', '.join(train.parameters) or 'none'}"
            )
        if places.space is None:
            raise UserError(f"trainer.residual={weight}: derivatives need splines, model.space=splines")
        self.weight, self.input_fields = weight, train.input_fields
        self.parameters = {n: train.parameters[n].float().to(device) for n in names}
        self.runs = len(train)
        free = torch.from_numpy(~train.held.any(axis=1)).nonzero()[:, 0]
        at = torch.from_numpy(train.nodes)[free[:: max(1, -(-len(free) // PLACES))]]
        d = at.shape[1]

        def matrix(*orders: int) -> Tensor:
            return places.space.matrix(at, orders).float().to(device)  # type: ignore[union-attr]

        unit = [tuple(int(i == k) for i in range(d)) for k in range(d)]
        self.value = matrix(*(0,) * d)
        self.first = torch.stack([matrix(*u) for u in unit])
        self.second = torch.stack([matrix(*(2 * i for i in u)) for u in unit]).sum(0)
        self.scales = scales.to(device)
        rate = train.values.double().diff(dim=1) / torch.from_numpy(train.times).diff()[:, None, None]
        self.size = float(rate.pow(2).mean()) or 1.0

    def __call__(self, states: Tensor, known: Known, index: Tensor, windows: Windows) -> Tensor:
        """(K,), for states (K, B, X, n, C) of windows (K, B)."""
        count = len(windows.first)
        kind, run = windows.kind[index % count], index // count
        fields = self.scales.physical(states)
        frames = _through(windows.curve[kind], fields)
        weights = windows.weights[kind] * (windows.slope[kind].abs().amax(-1) > 0)
        told = self.scales.input_mean, self.scales.input_spread
        inputs = _through(windows.curve[kind], known.inputs * told[1] + told[0]) if self.input_fields else None

        def parameter(name: str) -> Tensor:
            return self.parameters[name][run][..., None, None]

        local = Local(
            u=self.value @ frames,
            u_t=self.value @ _through(windows.slope[kind], fields),
            laplacian=self.second @ frames,
            grad=torch.stack([m @ frames for m in self.first], -1),
            inputs={} if inputs is None else self._split(self.value @ inputs),
            parameter=parameter,
        )
        square = self.equation(local).pow(2).mean((-2, -1)) / self.size
        return self.weight * (square * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1)

    def _split(self, inputs: Tensor) -> dict[str, Tensor]:
        names, sizes = zip(*self.input_fields, strict=True)
        return dict(zip(names, torch.split(inputs, list(sizes), -1), strict=True))


def _through(maps: Tensor, values: Tensor) -> Tensor:
    return torch.unflatten(maps @ values.flatten(-2), -1, values.shape[-2:])
