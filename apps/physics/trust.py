"""From the spread of an ensemble to an error that holds: a factor found on runs that were held out.

Shapes: R runs, C components; errors and spreads (..., C) of each run, the same places and times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from farfield.core_ops.errors import DomainError, ShapeError

# A spread below this share of its mean over a run is taken as that: members that agree by chance are not without error.
LEAST = 0.01


def calibrate(errors: Sequence[Tensor], spreads: Sequence[Tensor], coverage: float = 0.9) -> Tensor:
    """The factor by which the spread has to be multiplied so that the error stays below it, in so many places.

    Runs, not places, are what a new run can be compared with: each run has its own smallest factor, and that of the
    worst runs but a share 1 - coverage is taken (their rank is (R + 1) coverage, R at most).

    Args:
        errors: |prediction - truth| (..., C) of every held-out run. spreads: Standard deviations of the members, alike.
        coverage: Share of the places of a run, and of the runs, 0 to 1.
    Returns: (C,) float64.
    Raises: ShapeError: no runs, or other shapes; DomainError: a coverage that is none, NaN.
    Source: split conformal prediction, Vovk et al. 2005, with runs as the exchangeable units.
    """
    _check(errors, spreads)
    if not 0 < coverage < 1:
        raise DomainError(f"calibrate: coverage={coverage}; accepted: between 0 and 1.")
    factors = torch.stack([_quantile(_ratio(e, s), coverage) for e, s in zip(errors, spreads, strict=True)])
    rank = min(len(factors), int(-(-(len(factors) + 1) * coverage // 1)))
    return factors.sort(0).values[rank - 1]


def coverage(errors: Sequence[Tensor], spreads: Sequence[Tensor], factor: Tensor) -> Tensor:
    """The share of places of each run where the error stays below factor times spread, (R, C)."""
    _check(errors, spreads)
    kept = [(_ratio(e, s) <= factor).double().mean(0) for e, s in zip(errors, spreads, strict=True)]
    return torch.stack(kept)


def judged(
    members: Sequence[Tensor],
    truth: Sequence[Tensor],
    free: Sequence[Tensor],
    factor: Tensor,
    tolerance: Tensor,
    scale: Tensor,
) -> dict[str, float]:
    """How estimates of the error fared on runs: what a user may rely on.

    Args:
        members: (K, T, M, C) of every run. truth: (T, M, C). free: (M,), nodes without held values.
        factor, tolerance, scale: (C,): as of `Field`, and the size of each component.
    Returns: covered: share of values whose error is below its estimate, mean over runs, and covered_worst of the worst
        run; trusted: share of places whose estimates are within the tolerance in all components; trusted_error,
        untrusted_error: relative L2 error there (NaN where there are none).
    """
    shares, total = [], torch.zeros(2, 3, dtype=torch.float64)
    for found, true, at in zip(members, truth, free, strict=True):
        values = found.double()[:, 1:, at]
        error, spread = (values.mean(0) - true.double()[1:, at]).abs(), values.std(0)
        shares.append(coverage([error], [spread], factor).mean())
        estimate = torch.maximum(spread, LEAST * spread.mean((0, 1))) * factor
        sure = (estimate <= tolerance).all(-1)
        for k, part in enumerate((sure, ~sure)):
            e, t = error[part] / scale, true.double()[1:, at][part] / scale
            total[k] += torch.stack([part.sum().double(), e.pow(2).sum(), t.pow(2).sum()])
    errors = (total[:, 1] / total[:, 2]).sqrt()
    return {
        "covered": float(torch.stack(shares).mean()),
        "covered_worst": float(torch.stack(shares).min()),
        "trusted": float(total[0, 0] / total[:, 0].sum()),
        "trusted_error": float(errors[0]),
        "untrusted_error": float(errors[1]),
    }


def _ratio(error: Tensor, spread: Tensor) -> Tensor:
    """(places, C); 0 where there is neither error nor spread."""
    e, s = error.double().flatten(0, -2), spread.double().flatten(0, -2)
    s = torch.maximum(s, LEAST * s.mean(0))
    return torch.where(e == 0, 0.0, e / s)


def _quantile(x: Tensor, share: float) -> Tensor:
    # torch.quantile refuses more than 2^24 entries.
    rank = max(1, min(len(x), int(-(-share * len(x) // 1))))
    return x.kthvalue(rank, dim=0).values


def _check(errors: Sequence[Tensor], spreads: Sequence[Tensor]) -> None:
    if not len(errors) or len(errors) != len(spreads):
        raise ShapeError(
            f"{len(errors)} runs of errors and {len(spreads)} of spreads came; needed: as many, 1 or more."
        )
    for error, spread in zip(errors, spreads, strict=True):
        if error.shape != spread.shape or error.dim() < 2:
            raise ShapeError(f"an error of shape {tuple(error.shape)} and a spread of {tuple(spread.shape)} came.")
        if not bool(error.isfinite().all()) or not bool(spread.isfinite().all()):
            raise DomainError("an error or a spread is NaN or infinite; a rollout that blew up cannot calibrate one.")
