"""A small model in which generators matter, and data that depend on (seed, position) alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from farfield.apps.training.rng import seed_all


class Model(LightningModule):
    """Regression with dropout and noise from every generator; tied weights; logs metrics of its own."""

    def __init__(self, lr: float = 0.02, schedule: str = "cosine", poison_at: int = -1, max_steps: int = 40) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16, bias=False)
        self.tied = nn.Linear(16, 16, bias=False)
        self.tied.weight = self.second.weight
        self.last = nn.Linear(16, 1)
        self.drop = nn.Dropout(0.3)
        self.lr, self.schedule, self.poison_at, self.max_steps = lr, schedule, poison_at, max_steps
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.tied(torch.tanh(self.second(self.drop(torch.relu(self.first(x)))))))
        return y

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.batches.append(batch_idx)
        noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
        loss = ((self(batch["x"]) - batch["y"]) ** 2).mean() * (1 + 0.1 * noise)
        self.log("train/noise", noise)
        return loss * float("nan") if batch_idx == self.poison_at else loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        torch.rand(3)
        self.log("val/loss", ((self(batch["x"]) - batch["y"]) ** 2).mean(), batch_size=len(batch["x"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "interval": "step", "frequency": 5, "monitor": "val/loss"},
            }
        from farfield.apps.training.schedule import cosine_with_warmup

        scheduler = cosine_with_warmup(optimizer, self.max_steps, warmup_fraction=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def batch_at(seed: int, position: int) -> dict[str, Any]:
    """Batch at a position."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
    x = torch.randn(16, 8, generator=generator)
    return {"x": x, "y": (x[:, :1] * x[:, 1:2]).sin(), "n_units": 16}


class Data(LightningDataModule):
    """Endless train batches; with `places`, it can start at a position by itself."""

    def __init__(self, seed: int = 0, length: int | None = None) -> None:
        super().__init__()
        self.seed, self.length = seed, length

    def _train(self) -> Iterator[dict[str, Any]]:
        position = 0
        while self.length is None or position < self.length:
            yield batch_at(self.seed, position)
            position += 1

    def train_dataloader(self) -> Any:
        return self._train() if self.length is None else list(self._train())

    def val_dataloader(self) -> Any:
        return DataLoader([batch_at(self.seed + 1, -1 - i) for i in range(2)], batch_size=None)


class PlacedData(Data):
    """Starts at the position it is told."""

    start = 0

    def set_start_step(self, step: int) -> None:
        self.start = step

    def _train(self) -> Iterator[dict[str, Any]]:
        position = self.start
        while True:
            yield batch_at(self.seed, position)
            position += 1


def fresh_model(cls: type[Model] = Model, **kwargs: Any) -> Model:
    """A model whose first weights depend on nothing but the seed."""
    seed_all(1)
    return cls(**kwargs)
