"""SplineCollocation: checks, choice of implementation, cached operators.

Shapes: N cells between N + 1 knots; order r; M = N (r - 1) collocation points; data (..., size); x (..., Q);
coeffs (..., N r + 1), the values at knots and points in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..banded.batch import broadcast
from ..dispatch import Implementation, Registry
from ..errors import DtypeError, ShapeError
from . import direct
from .cell import ORDERS, Cell, cell_of, gauss
from .checks import check_finite, check_inside, check_knots, check_points, looks, unchanged, version
from .ends import Ends, ends_of
from .evaluate import antiderivative, values
from .fused import interpolate as fused_interpolate
from .fused import refuses as refuses_fused
from .kept import Kept
from .solve import knot_values, narrow, nodal, split
from .stencil import Stencils

# Up to so many entries of a data vector, and of an operator, one GEMM is faster than solving and looking cells up.
OPERATOR_SIZE = 1024
OPERATOR_ENTRIES = 2**22


@dataclass(frozen=True)
class Call:
    """What one call of a spline asks for."""

    device: str
    cells: int
    ends: Ends
    fixed: bool
    gauss: bool
    queries: int
    shared_queries: bool
    size: int
    numbers: int


class Run(Protocol):
    """Interpolates checked data at checked queries."""

    def __call__(self, spline: "SplineCollocation", data: Tensor, x: Tensor, derivative: int) -> Tensor: ...


def run_operator(spline: "SplineCollocation", data: Tensor, x: Tensor, derivative: int) -> Tensor:
    """One GEMM with the cached operator."""
    return data @ spline.kept_operator(x, derivative, data.dtype).mT


def run_fused(spline: "SplineCollocation", data: Tensor, x: Tensor, derivative: int) -> Tensor:
    """One kernel that solves and evaluates, a partition for each series."""
    return fused_interpolate(data, spline.knots, x, spline.order, spline.ends, derivative)


def run_torch(spline: "SplineCollocation", data: Tensor, x: Tensor, derivative: int) -> Tensor:
    """Solve, then look every query's cell up; on a CPU without gradients in place, a block of series at a time."""
    if derivative == 0 and direct.solves(spline, data, x):
        return direct.interpolate(data, spline.knots, x, spline.order, spline.ends)
    coeffs = spline.solve(data)
    return values(coeffs, spline.knots, x, spline.cell.to(data), spline.order, derivative)


def refuses_operator(call: Call) -> str | None:
    """Why there is no one operator for a call."""
    if not (call.fixed and call.shared_queries):
        return "knots or queries differ between series, or need a gradient; take impl='torch'."
    if call.size > OPERATOR_SIZE or call.size * call.queries > OPERATOR_ENTRIES:
        return f"an operator of {call.queries} x {call.size} entries is too large; take impl='torch'."
    return None


def refuses_torch(call: Call) -> str | None:
    """It runs everything."""
    return None


REGISTRY: Registry[Call, Run] = Registry("SplineCollocation")
REGISTRY.register(Implementation("operator", run_operator, refuses_operator))
REGISTRY.register(Implementation("cuda", run_fused, refuses_fused))
REGISTRY.register(Implementation("torch", run_torch, refuses_torch))


class SplineCollocation:
    """C1 splines of order r through r - 1 Gauss points in every cell of a partition, at any query.

        S of degree r on [p_i, p_(i+1)],  S(x_ij) = y_ij at x_ij = p_i + h_i (g_j + 1) / 2,  S and S' continuous

    A data vector holds the values at the points, and before and after them what an end is given: its value
    ("dirichlet"), its slope ("neumann"), or nothing ("free", "periodic").

        spline = SplineCollocation(torch.linspace(0, 1, 17), order=3)
        u = spline(f(spline.nodes), x)                      # or, step by step:
        coeffs = spline.fit(f(spline.nodes))
        slope = spline.evaluate(coeffs, x, derivative=1)

    Args:
        knots: (N + 1), or (..., N + 1), a partition for each series; strictly increasing, any domain. float32 or
            float64; a sequence of numbers is float64. May need a gradient.
        order: r, the degree on each cell, 2 to 8.
        ends: "dirichlet", "neumann", "free" (the polynomial through the nearest r + 1 points) or "periodic"; or a pair.
        points: (..., N (r - 1)), positions of one's own, r - 1 inside each cell, instead of Gauss'. Stability is then
            yours to watch: see `lebesgue`.
        check: Whether data and queries are looked at (NaN, outside); on a GPU that waits for the device.
    Raises: ShapeError: order, ends, shapes. DomainError: knots unsorted, duplicate or not finite.
    Complexity: fit O(M) a series, evaluate O(Q r log N); small fixed problems are one GEMM.
    Source: Hua et al. 2023, "GraphSplineNets", arXiv:2310.16397; README.md for the tridiagonal form.
    """

    def __init__(
        self,
        knots: Tensor | Sequence[float],
        order: int = 3,
        *,
        ends: str | tuple[str, str] = "dirichlet",
        points: Tensor | None = None,
        check: bool = True,
    ) -> None:
        if not isinstance(order, int) or order not in ORDERS:
            raise ShapeError(f"SplineCollocation: order={order!r}; accepted: 2 to 8, the degree on each cell.")
        self.knots = check_knots(knots if isinstance(knots, Tensor) else torch.tensor(knots, dtype=torch.float64))
        self.order, self.ends, self.check = order, ends_of(ends), check
        self.own_points = check_points(points, self.knots, order) if points is not None else None
        self._stencils: Stencils | None = None
        # Queries that were looked at: the same tensor, unchanged, need not be again.
        self._seen: tuple[Tensor, int] | None = None
        self._operators = Kept()
        self._inverse: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def cells(self) -> int:
        """N."""
        return self.knots.shape[-1] - 1

    @property
    def size(self) -> int:
        """Entries of a data vector: N (r - 1), and one for every end that is given."""
        return self.cells * (self.order - 1) + sum(self.ends.given)

    @property
    def fixed(self) -> bool:
        """Whether one partition serves all series and needs no gradient: then all of it is one linear map."""
        own = self.own_points
        leaves = [self.knots] if own is None else [self.knots, own]
        return all(x.dim() == 1 and not x.requires_grad for x in leaves)

    @property
    def cell(self) -> Cell:
        """The nodes of a cell: Gauss', or every cell's own."""
        if self.own_points is None:
            return gauss(self.order)
        inside = self.own_points.reshape(*self.own_points.shape[:-1], self.cells, self.order - 1)
        return cell_of((inside - self.knots[..., :-1, None]) / self.knots.diff()[..., None])

    @property
    def points(self) -> Tensor:
        """The collocation points, (..., N (r - 1))."""
        if self.own_points is not None:
            return self.own_points
        inner = gauss(self.order).nodes[1:-1].to(self.knots)
        return (self.knots[..., :-1, None] + self.knots.diff()[..., None] * inner).flatten(-2)

    @property
    def nodes(self) -> Tensor:
        """Where the entries of a data vector are taken, (..., size): the points, and the ends that are given."""
        first, last = self.ends.given
        return torch.cat([self.knots[..., :first], self.points, self.knots[..., self.cells + 1 - last :]], -1)

    def fit(self, data: Float[Tensor, "*b m"]) -> Float[Tensor, "*c n"]:
        """Coefficients of the spline through the data.

        Args:
            data: (..., size); batch dimensions broadcast with those of the knots. float32 or float64.
        Returns: (..., N r + 1): the values at knots and points in order, so that neighbouring cells share the knot's.
        Raises: ShapeError, DtypeError; DomainError: NaN or infinity in data.
        """
        self._check_data("fit", data)
        return self.solve(data)

    def solve(self, data: Tensor) -> Tensor:
        """`fit` of data that were checked."""
        if self.fixed and self.size <= OPERATOR_SIZE:
            _, y, _ = split(data, self.cells, self.order, self.ends)
            return nodal(data @ self._knot_operator(data), y)
        if direct.solves(self, data):
            return direct.fit(data, self.knots, self.order, self.ends)
        cell = self.cell.to(data)
        v = knot_values(data, self.knots.diff().to(data.dtype), cell, self.order, self.ends)
        return nodal(v, split(data, self.cells, self.order, self.ends)[1])

    def evaluate(
        self, coeffs: Float[Tensor, "*b n"], x: Float[Tensor, "*c q"], derivative: int = 0
    ) -> Float[Tensor, "*d q"]:
        """S(x), S'(x) or S''(x).

        Args:
            coeffs: From `fit`, (..., N r + 1).
            x: Queries in any order, (Q) for all series or (..., Q). At an interior knot S'' is that of the right cell.
            derivative: 0, 1 or 2.
        Returns: (..., Q) in the dtype of coeffs. Differentiable in coeffs, x and knots.
        Raises: ShapeError, DtypeError; DomainError: a query outside (periodic ends wrap around), or NaN.
        """
        self._check_coeffs("evaluate", coeffs)
        x = self.check_queries("evaluate", x, derivative)
        return values(coeffs, self.knots, x, self.cell.to(coeffs), self.order, derivative)

    def __call__(
        self, data: Float[Tensor, "*b m"], x: Float[Tensor, "*c q"], derivative: int = 0, *, impl: str = "auto"
    ) -> Float[Tensor, "*d q"]:
        """The spline through data at x: `fit` and `evaluate` in one, as one GEMM or one kernel where that is possible.

        Args:
            data, x, derivative: As for `fit` and `evaluate`; float16 and bfloat16 data are computed in float32.
            impl: "auto", "operator" (one GEMM), "cuda" (solve and evaluation fused, on a GPU) or "torch".
        Returns: (..., Q) in the dtype of data.
        Raises: as `fit` and `evaluate`. KernelUnavailable: impl cannot run the call.
        """
        wide = data.float() if data.dtype in (torch.float16, torch.bfloat16) else data
        self._check_data("call", wide)
        if impl in ("auto", "operator") and self.fixed and x.dim() == 1 and not x.requires_grad:
            # Queries that are still those of the last call need neither checks nor a choice.
            matrix = self._operators.same(x, derivative, wide.dtype)
            if matrix is not None and self.size <= OPERATOR_SIZE and matrix.numel() <= OPERATOR_ENTRIES:
                return (wide @ matrix.mT).to(data.dtype)
        x = self.check_queries("call", x, derivative)
        call = Call(
            device=data.device.type,
            cells=self.cells,
            ends=self.ends,
            fixed=self.fixed,
            gauss=self.own_points is None,
            queries=x.shape[-1],
            shared_queries=x.dim() == 1 and not x.requires_grad,
            size=self.size,
            numbers=broadcast(data.shape[:-1], self.knots.shape[:-1], x.shape[:-1]).numel()
            * max(self.size, x.shape[-1]),
        )
        return REGISTRY.choose(impl, call).run(self, wide, x, derivative).to(data.dtype)

    def operator(
        self, x: Float[Tensor, " q"], derivative: int = 0, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*b q m"]:
        """The linear map from data to values: S(x) = operator(x) @ data.

        Args:
            x: (Q). derivative: 0, 1 or 2. dtype: Of the result; that of x unless given. It is computed in float64.
        Returns: (..., Q, size). Kept for the next call with the same x where neither knots nor x need a gradient.
        """
        x = self.check_queries("operator", x, derivative)
        return self.kept_operator(x, derivative, x.dtype if dtype is None else dtype)

    def kept_operator(self, x: Tensor, derivative: int, dtype: torch.dtype) -> Tensor:
        """`operator` at queries that were checked: the one that is kept, or a new one."""
        # A graph that is traced holds its own operator.
        keep = self.fixed and not x.requires_grad and not torch.compiler.is_compiling()
        if keep and (found := self._operators.equal(x, derivative, dtype)) is not None:
            return found
        matrix = narrow(self._operator(x, derivative), dtype)
        if keep:
            self._operators.keep(x, derivative, matrix)
        return matrix

    def stencil(
        self, x: Float[Tensor, " q"], derivative: int = 0, dtype: torch.dtype | None = None
    ) -> tuple[Int[Tensor, " q"], Float[Tensor, "q k"]]:
        """Where a query looks and how it weighs what it finds: S(x) = sum_k weights[k] coeffs[first + k].

        Args:
            x: (Q). derivative: 0, 1 or 2. dtype: Of the weights; None is that of x.
        Returns: The first coefficient of each query's cell (Q), and r + 1 weights (Q, r + 1).
        Raises: ShapeError: partitions differ between series, own points. DomainError: a query outside.
        """
        if self.knots.dim() > 1 or self.own_points is not None:
            raise ShapeError("SplineCollocation.stencil: one partition for all, with Gauss points, is accepted.")
        x = self.check_queries("stencil", x, derivative)
        if self._stencils is None:
            self._stencils = Stencils(self.knots.detach().double(), self.cell)
        return self._stencils(x.double(), derivative, x.dtype if dtype is None else dtype)

    def _operator(self, x: Tensor, derivative: int) -> Tensor:
        wide = self.knots.double()
        identity = torch.eye(self.size, dtype=torch.float64, device=x.device)
        cell = self.cell.to(wide)
        if cell.nodes.dim() > 1:
            cell = Cell(cell.nodes[..., None, :, :], cell.weights[..., None, :, :], cell.derivative[..., None, :, :, :])
        knots = wide[..., None, :] if wide.dim() > 1 else wide
        v = knot_values(identity, knots.diff(), cell, self.order, self.ends)
        coeffs = nodal(v, split(identity, self.cells, self.order, self.ends)[1])
        return values(coeffs, knots, x.double(), cell, self.order, derivative).mT

    def _knot_operator(self, data: Tensor) -> Tensor:
        key = (data.dtype, data.device)
        if key not in self._inverse:
            wide = self.knots.double()
            identity = torch.eye(self.size, dtype=torch.float64, device=wide.device)
            v = knot_values(identity, wide.diff(), self.cell.to(wide), self.order, self.ends)
            self._inverse[key] = narrow(v, data.dtype).to(data.device)
        return self._inverse[key]

    def integrate(
        self, coeffs: Float[Tensor, "*b n"], a: Float[Tensor, "*c q"] | None = None, b: Tensor | None = None
    ) -> Float[Tensor, "..."]:
        """The integral of S from a to b, or over the whole domain.

        Args:
            coeffs: From `fit`. a, b: Bounds (Q) or (..., Q) inside the domain; both or none.
        Returns: (..., Q); (...) for the whole domain. Differentiable in coeffs, bounds and knots.
        Raises: ShapeError: one bound alone. DomainError: a bound outside.
        """
        self._check_coeffs("integrate", coeffs)
        if (a is None) != (b is None):
            raise ShapeError("SplineCollocation.integrate: one bound came; give both a and b, or none.")
        cell = self.cell.to(coeffs)
        if a is None or b is None:
            end = self.knots[..., -1:]
            return antiderivative(coeffs, self.knots, end, cell, self.order)[..., 0]
        for x in (a, b):
            check_inside("SplineCollocation.integrate", x, self.knots, self.check)
        whole = [antiderivative(coeffs, self.knots, x.to(coeffs), cell, self.order) for x in (b, a)]
        return whole[0] - whole[1]

    def lebesgue(self, samples: int = 65) -> Float[Tensor, "..."]:
        """max_x sum_j |operator(x)[j]| over the values: how much the largest error of the values can grow.

        Args:
            samples: Places looked at in each cell.
        Returns: (...), one for each partition; slopes given at an end are taken as exact.
        """
        places = torch.linspace(0, 1, samples, dtype=torch.float64, device=self.knots.device)
        first, last = int(self.ends.left == "neumann"), self.size - int(self.ends.right == "neumann")
        own = self.own_points
        batch = broadcast(self.knots.shape[:-1], () if own is None else own.shape[:-1])
        rows = self.knots.detach().expand(*batch, self.cells + 1).reshape(-1, self.cells + 1)
        constants = []
        with torch.no_grad():
            for k, knots in enumerate(rows):
                points = None if own is None else own.expand(*batch, own.shape[-1]).reshape(len(rows), -1)[k].detach()
                line = SplineCollocation(knots, self.order, ends=(self.ends.left, self.ends.right), points=points)
                x = (knots[:-1, None] + knots.diff()[:, None] * places).flatten()
                constants.append(line.operator(x, dtype=torch.float64)[:, first:last].abs().sum(-1).amax())
        return torch.stack(constants).reshape(batch)

    def _check_data(self, what: str, data: Tensor) -> None:
        if data.dim() < 1 or data.shape[-1] != self.size:
            given = f"{self.ends.left}, {self.ends.right}"
            raise ShapeError(
                f"SplineCollocation.{what}: data has shape {tuple(data.shape)}; needed: (..., {self.size}), that is"
                f" {self.cells} cells x {self.order - 1} points and what the ends ({given}) are given; see `nodes`."
            )
        self.check_dtype(what, "data", data)
        check_finite(f"SplineCollocation.{what}", "data", data, self.check)

    def _check_coeffs(self, what: str, coeffs: Tensor) -> None:
        needed = self.cells * self.order + 1
        if coeffs.dim() < 1 or coeffs.shape[-1] != needed:
            raise ShapeError(
                f"SplineCollocation.{what}: coeffs has shape {tuple(coeffs.shape)}; needed: (..., {needed}),"
                " as `fit` gives."
            )
        self.check_dtype(what, "coeffs", coeffs)

    def check_dtype(self, what: str, name: str, x: Tensor) -> None:
        """Refuses other dtypes than float32 and float64, and other devices than the knots'."""
        if x.dtype not in (torch.float32, torch.float64) or x.device != self.knots.device:
            raise DtypeError(
                f"SplineCollocation.{what}: {name} is {x.dtype} on {x.device}; accepted: float32 or float64 on the"
                f" knots' device, {self.knots.device}."
            )

    def check_queries(self, what: str, x: Tensor, derivative: int) -> Tensor:
        """Queries inside the domain; those of a circle wrapped into it."""
        if derivative not in (0, 1, 2):
            raise ShapeError(f"SplineCollocation.{what}: derivative={derivative!r}; accepted: 0, 1, 2.")
        if x.dim() < 1:
            raise ShapeError(f"SplineCollocation.{what}: x is a scalar; needed: (Q) or (..., Q), say x[None].")
        self.check_dtype(what, "x", x)
        if not self.ends.periodic:
            if self._seen is None or not unchanged(x, *self._seen):
                check_inside(f"SplineCollocation.{what}", x, self.knots, self.check)
                if looks(self.check, x):
                    self._seen = (x, version(x))
            return x
        check_finite(f"SplineCollocation.{what}", "x", x, self.check)
        start = self.knots[..., :1]
        return start + torch.remainder(x - start, self.knots[..., -1:] - start)
