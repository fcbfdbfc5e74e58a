"""A classification head: the encoder of SpaceTime, its output averaged over time, one linear map to the classes.

Shapes: N series, C channels, L observations, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from farfield.apps.forecasting.blocks import Encoder
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.level import measure
from farfield.apps.training.errors import UserError


class SpaceTimeClassifier(nn.Module):
    """logits = W dropout(mean_t gelu(encoder(u)_t)) + bias.

    Args:
        config: `targets` is the number of channels; lag, horizon, covariates and skip are not read.
        classes: K.
    """

    def __init__(self, config: SpaceTimeConfig, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UserError(f"classes={classes}: two or more are needed to tell apart")
        self.config = replace(config, known=0, past=0, linear_skip=False)
        self.encoder = Encoder(self.config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.channels, classes)

    def forward(self, y: Tensor) -> Tensor:
        """(N, L, C) -> (N, K)."""
        u = measure(y, None, self.config).apply(y).permute(2, 0, 1).contiguous()
        blocks = self.encoder.layers()
        z = blocks[0].enter(u, None, None)
        for block in blocks:
            z = block(z)
        logits: Tensor = self.head(self.dropout(nn.functional.gelu(z).mean(-1).mT))
        return logits


def train_classifier(
    net: SpaceTimeClassifier,
    y: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    epochs: int = 300,
    batch_size: int = 32,
    lr: float = 1e-2,
    weight_decay: float = 1e-2,
    on_epoch: Callable[[int, float], None] | None = None,
) -> float:
    """Cross-entropy under AdamW and a cosine rate; the last weights are kept. The same seed gives the same bits.

    Args:
        y: (N, L, C), labels: (N,) of 0 to K - 1.
        on_epoch: Called with the number and the mean loss of every epoch.
    Returns: Mean loss of the last epoch.
    """
    if len(y) != len(labels) or len(y) == 0:
        raise UserError(
            f"{len(y)} series and {len(labels)} labels came; one label for each of at least one is accepted"
        )
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    steps, done, loss = epochs * math.ceil(len(y) / batch_size), 0, math.nan
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net.train()
        for epoch in range(epochs):
            total = 0.0
            for rows in torch.split(torch.randperm(len(y), generator=order), batch_size):
                optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * done / steps))
                optimiser.zero_grad()
                value = nn.functional.cross_entropy(net(y[rows]), labels[rows])
                torch.autograd.backward(value)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                total += float(value.detach()) * len(rows)
                done += 1
            loss = total / len(y)
            if on_epoch is not None:
                on_epoch(epoch + 1, loss)
    net.eval()
    return loss
