"""Small networks and batches, and those of the golden vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farfield.apps.forecasting.spacetime import SpaceTime, SpaceTimeConfig
from farfield.apps.forecasting.windows import Batch

SMALL: dict[str, Any] = {"lag": 30, "horizon": 12, "model_dim": 16, "kernel_dim": 8, "n_kernels": 4, "max_average": 20}
# What differs from it: covariates of both kinds, several targets and blocks, odd shapes, no norm, a finite filter.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "covariates": {"targets": 2, "known": 2, "past": 1, "n_blocks": 2, "linear_skip": True, "transform": "standardise"},
    "odd": {"known": 1, "linear_skip": True, "transform": "last", "model_dim": 11, "n_kernels": 5},
    "free": {"norm_order": 0, "transform": "none"},
    "shift": {"system": "shift", "targets": 3},
}


def network(name: str = "plain", **changes: Any) -> SpaceTime:
    """A network of a shape, every weight that starts at zero drawn at random."""
    net = SpaceTime.seeded(SpaceTimeConfig(**{**SMALL, **SHAPES[name], **changes}), 0).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in net.named_parameters():
            if any(word in key for word in ("skip.", "mix", "drive", "output")):
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
            # Without a norm, random weights make the loop explode.
            if net.config.norm_order == 0 and key.endswith((".a", ".k")):
                p.mul_(0.05)
    return net


def series(
    net: SpaceTime, batch: int, length: int, ahead: int, seed: int = 0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y (B, L, C), known (B, L + T, known) and past (B, L, past) that a network reads."""
    g = torch.Generator().manual_seed(seed)
    config = net.config
    y = torch.randn(batch, length, config.targets, generator=g).cumsum(1)
    known = torch.randn(batch, length + ahead, config.known, generator=g) if config.known else None
    past = torch.randn(batch, length, config.past, generator=g) if config.past else None
    return y, known, past


def golden_network(tensors: dict[str, Tensor], facts: dict[str, Any]) -> tuple[SpaceTime, Batch]:
    """The released network of a golden file, in float64, and its batch."""
    blocks = facts["config"]["encoder_config"]["blocks"]
    pre, ssm = blocks[0]["pre_config"]["kwargs"], blocks[0]["ssm_config"]
    transform = {"standardize": "standardise"}.get(facts["transform"], facts["transform"])
    config = SpaceTimeConfig(
        lag=facts["lag"],
        horizon=facts["horizon"],
        targets=tensors["series"].shape[2],
        model_dim=ssm["kwargs"]["model_dim"],
        kernel_dim=ssm["kwargs"]["kernel_dim"],
        n_blocks=len(blocks),
        n_kernels=ssm["kwargs"]["n_kernels"],
        dropout=0.0,
        transform=transform,
        system=ssm["method"],
        min_average=pre["min_avg_window"],
        max_average=pre["max_avg_window"],
        compat=True,
    )
    net = SpaceTime(config).double()
    net.load_state_dict({k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")})
    lags, future = tensors["series"].split([config.lag, config.horizon], 1)
    return net, Batch(lags, future, None, None, None, None)
