"""Muon for the square matrices of networks of several members, AdamW for everything else.

Shapes: P parameters (K, H, c H) of K members, each c matrices side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Of the running mean of gradients.
MOMENTUM = 0.95
# Of the iteration that takes singular values to about one; how often.
QUINTIC, ROUNDS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.AdamW):
    """AdamW, and for matrices the nearest orthogonal matrix to their running mean gradient as the step.

        m <- .95 m + .05 g, W <- W - lr sqrt(H) U V^T, of (.95 m + .05 g) = U S V^T

    The numbers of a step are of size lr on average, as those of AdamW at most are, so that both take one learning rate.

    torch.optim.Muon takes parameters of two dimensions alone; here every member and block has a step of its own.

    Args:
        matrices: Parameters (K, H, c H). others: For AdamW.
        lr, weight_decay, betas, fused: As of AdamW.

    Complexity: 30 H^3 a matrix and step, in three batched GEMMs a round.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Tensor], **adamw: Any) -> None:
        groups = [{"params": list(matrices), "turned": True}, {"params": list(others), "turned": False}]
        super().__init__(groups, **adamw)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["turned"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["turned"]:
                self._turn(group)
        return loss

    def _turn(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        grads: list[Tensor] = [p.grad for p in params]
        for p in params:
            if not self.state[p]:
                # AdamW looks for the number of steps where it loads a state.
                self.state[p] |= {"step": torch.zeros(()), "mean": torch.zeros_like(p)}
        means = [self.state[p]["mean"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(grads, means, MOMENTUM)
        steps = orthogonal(torch.cat([_apart(a) for a in ahead]))
        counts = [p.shape[0] * p.shape[2] // p.shape[1] for p in params]
        turned = [_together(s, p) for s, p in zip(torch.split(steps, counts), params, strict=True)]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, turned, alpha=-group["lr"] * steps.shape[-1] ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Singular values taken to between about .4 and 1.2, (B, H, H)."""
    a, b, c = QUINTIC
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _apart(p: Tensor) -> Tensor:
    """(K, H, c H) to (K c, H, H)."""
    members, rows, columns = p.shape
    return p.reshape(members, rows, columns // rows, rows).movedim(2, 1).flatten(0, 1)


def _together(matrices: Tensor, like: Tensor) -> Tensor:
    """(K c, H, H) to (K, H, c H)."""
    members, rows, columns = like.shape
    return matrices.reshape(members, columns // rows, rows, rows).movedim(1, 2).reshape(like.shape)
