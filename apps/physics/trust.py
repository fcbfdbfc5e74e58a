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
