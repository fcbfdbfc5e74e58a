"""Learning-rate schedules."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from farfield.apps.training.errors import UserError

WARMUP_FROM = 1e-6


def cosine_with_warmup(
    optimizer: Optimizer, max_steps: int, warmup_fraction: float = 0.01, lr_min_ratio: float = 0.1
) -> LambdaLR:
    """Linear warmup from 1e-6 to each group's lr, then half a cosine down to `lr_min_ratio * lr`.

        step < w:  lr(step) = 1e-6 + (lr - 1e-6) * step / w,    w = round(warmup_fraction * max_steps)
        else:      lr(step) = lr * (r + (1 - r) * (1 + cos(pi * (step - w) / (max_steps - w))) / 2)

    Args:
        optimizer: Its groups' lr are the peaks.
        max_steps: Optimiser steps of the whole run; beyond them the lr stays at its minimum.
        warmup_fraction: Share of max_steps spent in warmup, 0 to 1.
        lr_min_ratio: Minimum lr over peak lr, 0 to 1.

    Returns:
        A scheduler to be stepped after every optimiser step (Lightning: `interval="step"`).

    Raises:
        UserError: An argument is out of its range.

    Source: Nguyen et al. 2023, "HyenaDNA", arXiv:2306.15794, pretraining recipe.
    """
    if max_steps < 1:
        raise UserError(f"max_steps={max_steps}: a schedule needs at least 1 step")
    if not 0 <= warmup_fraction <= 1 or not 0 <= lr_min_ratio <= 1:
        raise UserError(f"warmup_fraction={warmup_fraction}, lr_min_ratio={lr_min_ratio}: both are shares, from 0 to 1")
    warmup = round(warmup_fraction * max_steps)

    def ratio(peak: float, step: int) -> float:
        if step < warmup:
            start = min(WARMUP_FROM, peak) / peak if peak > 0 else 0.0
            return start + (1 - start) * step / warmup
        done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        return lr_min_ratio + (1 - lr_min_ratio) * (1 + math.cos(math.pi * done)) / 2

    peaks = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [partial(ratio, peak) for peak in peaks])
