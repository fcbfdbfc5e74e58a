"""Values at a few times, and the C1 curve through them: a fixed linear map.

Shapes: T times whose values are wanted; N cells of degree r, N r + 1 coefficients; S queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.apps.physics.kept import Kept
from farfield.core_ops.spline_collocation import SplineCollocation


class TimeMap:
    """A spline in time: which times it wants, and where a query looks among its coefficients.

    Take `TimeMap.collocation` for the Gauss nodes of a partition, `TimeMap.through` for times that are given.

    Args:
        spline: Its partition and order.
        nodes: (T,) float64, where values are wanted.
        fit: (N r + 1, T) float64: coefficients from values.
    """

    def __init__(self, spline: SplineCollocation, nodes: Tensor, fit: Tensor) -> None:
        self.spline, self.nodes, self.fit = spline, nodes, fit
        self._kept = Kept()

    @classmethod
    def collocation(cls, knots: Tensor | Sequence[float], order: int = 3, ends: str = "dirichlet") -> TimeMap:
        """Values at the knots' ends ("dirichlet") and r - 1 Gauss points in every cell."""
        spline = SplineCollocation(torch.as_tensor(knots, dtype=torch.float64).detach().cpu(), order, ends=ends)
        return cls(spline, spline.nodes, spline.fit(torch.eye(spline.size, dtype=torch.float64)).mT.contiguous())

    @classmethod
    def through(cls, times: Tensor | Sequence[float] | NDArray[np.float64]) -> TimeMap:
        """Values at rising times of one's own: a C2 cubic, not-a-knot ends; of lower degree through two or three.

        Raises: DomainError: times unsorted, twice the same, not finite.
        """
        nodes = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
        if len(nodes) == 1:
            # One frame holds everywhere near it: a constant on a cell that is as wide as rounding allows.
            width = max(1e-9, 1e-9 * abs(float(nodes)))
            spline = SplineCollocation([float(nodes) - width, float(nodes) + width], 2)
            return cls(spline, nodes, torch.ones(3, 1, dtype=torch.float64))
        spline = SplineCollocation(nodes, 3)
        from scipy.interpolate import make_interp_spline

        degree = min(3, len(nodes) - 1)
        curve = make_interp_spline(nodes.numpy(), torch.eye(len(nodes), dtype=torch.float64).numpy(), k=degree)
        inner = torch.cat([nodes[:-1, None], spline.points.reshape(-1, 2)], 1).flatten()
        places = torch.cat([inner, nodes[-1:]])
        return cls(spline, nodes, torch.from_numpy(curve(places.numpy())))

    @property
    def start(self) -> float:
        """The first time that may be asked for."""
        return float(self.nodes[0]) if len(self.nodes) == 1 else float(self.spline.knots[0])

    @property
    def end(self) -> float:
        """The last one."""
        return float(self.nodes[-1]) if len(self.nodes) == 1 else float(self.spline.knots[-1])

    def matrix(
        self, times: Tensor, derivative: int = 0, *, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> Tensor:
        """The map from values at `nodes` to the curve, or a derivative of it, at times: (S, T).

        Args:
            times: (S,) float64. derivative: 0, 1 or 2. dtype, device: Of the result; the last eight are kept.
        Raises: DomainError: a time outside.
        """

        def build() -> Tensor:
            first, weights = self.spline.stencil(times.detach().cpu().double(), derivative)
            block = self.fit[first[:, None] + torch.arange(weights.shape[1])]
            return (weights[:, None] @ block)[:, 0]

        return self._kept.get(times, derivative, dtype, device, build)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON to make it again."""
        return {"knots": self.spline.knots, "nodes": self.nodes, "fit": self.fit}, {"order": self.spline.order}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> TimeMap:
        """The map that `state` described."""
        spline = SplineCollocation(tensors["knots"].double(), int(about["order"]))
        return cls(spline, tensors["nodes"].double(), tensors["fit"].double())
