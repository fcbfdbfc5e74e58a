"""Training of an ensemble: windows drawn for each member, data and draws on the device, nothing read back in a step.

Shapes: K members, B windows a member and step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor

from farfield.apps.physics.clock import Clock, Windows, windows_of
from farfield.apps.physics.ensemble import along, rolled_out, whole_run
from farfield.apps.physics.graphsplinenets import GraphSplineNets, amplitude
from farfield.apps.physics.prepared import Prepared
from farfield.apps.physics.residual import Residual
from farfield.apps.training.schedule import cosine_with_warmup

# Draws made at once: a GPU waits for the CPU once in so many steps.
DRAWS = 256


class Learning(LightningModule):
    """Loss, optimiser and validation.

    Args:
        net: The networks. train, valid: Data; valid may be None.
        clock: Coarse times. settings: recipes/physics/trainer/.
        max_steps: Of the whole run. seed: Of the draws. precision: fp32 or bf16.
        expand: (N, n) or None, truth (R, T, N, C) of valid, normalised, and known (N, C): for the error at all nodes
            whose values are not held.
        residual: The equation's own loss, if any.
    """

    def __init__(
        self,
        net: GraphSplineNets,
        train: Prepared,
        valid: Prepared | None,
        clock: Clock,
        settings: Mapping[str, Any],
        *,
        max_steps: int,
        seed: int,
        precision: str,
        curve: Tensor,
        expand: Tensor | None,
        truth: Tensor | None,
        known: Tensor,
        residual: Residual | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.train_data, self.valid_data = net, train, valid
        self.clock, self.max_steps, self.draw_seed, self.precision_name = clock, max_steps, seed, precision
        self.lr, self.weight_decay = float(settings["lr"]), float(settings["weight_decay"])
        self.warmup_fraction, self.lr_min_ratio = float(settings["warmup_fraction"]), float(settings["lr_min_ratio"])
        self.noise, self.batch = float(settings["noise"]), int(settings["batch"])
        self.clip = float(settings["clip"] or 0)
        self.stages: list[int] = [int(w) for w in settings["unroll"]]
        self.residual = residual
        self.curve, self.expand, self.truth, self.known = curve, expand, truth, known
        self.windows = {w: windows_of(clock, clock.windows(w)) for w in set(self.stages)}
        self._whole: Windows | None = None
        self._table: tuple[int, int, Tensor] | None = None
        self._generator: torch.Generator | None = None

    def stage(self, step: int) -> int:
        """Intervals of a window at an optimiser step: the stages share the steps evenly."""
        return self.stages[min(len(self.stages) - 1, step * len(self.stages) // max(1, self.max_steps))]

    def configure_optimizers(self) -> Any:
        """AdamW; members' gradients do not mix, so neither do their moments."""
        fused = self.device.type == "cuda"
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.98), fused=fused
        )
        schedule = cosine_with_warmup(optimizer, self.max_steps, self.warmup_fraction, self.lr_min_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """The graph and the windows follow the networks to their device."""
        self.net.to_device(self.device)
        self.windows = {w: found.to(self.device) for w, found in self.windows.items()}
        self._whole = whole_run(self.clock, self.device)

    def training_step(self, batch: int, _: int) -> Tensor:
        """One optimiser step; batch is its number."""
        steps = self.stage(batch)
        index = self.drawn(batch, steps)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        losses = self.losses(index, steps, self.disturb(self.empty_noise(index), batch))
        torch.autograd.backward([losses.sum()])
        self.clip_members()
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return losses.detach().mean()

    def drawn(self, step: int, steps: int) -> Tensor:
        """Windows (K, B) of a step: they depend on the seed, the stage and the step alone."""
        chunk = step // DRAWS
        if self._table is None or self._table[:2] != (chunk, steps):
            count = len(self.train_data.states) * len(self.windows[steps].first)
            generator = torch.Generator().manual_seed(_mixed(self.draw_seed, chunk, steps))
            shape = (DRAWS, self.net.network.members, self.batch)
            self._table = (chunk, steps, torch.randint(count, shape, generator=generator).to(self.device))
        return self._table[2][step % DRAWS]

    def empty_noise(self, index: Tensor) -> Tensor:
        """Room for noise on the first states of windows, (K, B, n, C)."""
        return torch.zeros(*index.shape, *self.train_data.states.shape[-2:], device=self.device)

    def disturb(self, noise: Tensor, step: int) -> Tensor:
        """Fills in the noise of a step, which depends on seed and step alone."""
        if self.noise:
            if self._generator is None:
                self._generator = torch.Generator(self.device)
            self._generator.manual_seed(_mixed(self.draw_seed, step, 0))
            noise.normal_(generator=self._generator)
        return noise

    def losses(self, index: Tensor, steps: int, noise: Tensor) -> Tensor:
        """(K,)."""
        start, known, targets, maps, weights = self.train_data.draw(index, self.windows[steps])
        by_run = self.net.by_run
        size = self.noise * (amplitude(start) if by_run else 1.0)
        noisy = torch.where(self.net.held, start, start + size * noise) if self.noise else start
        bf16 = self.precision_name == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            states = self.net(noisy, known)
        # The curve begins at the state that is known, not at the one that was disturbed.
        states = torch.cat([start[:, :, None], states[:, :, 1:]], 2).float()
        cost = self.train_data.loss(states, targets, maps, weights, by_run)
        if self.residual is not None:
            cost = cost + self.residual(states, known, index, self.windows[steps])
        return cost

    def clip_members(self) -> None:
        """Each member's gradient to a norm of `clip` at most."""
        if not self.clip:
            return
        grads = [p.grad for p in self.net.parameters() if p.grad is not None]
        squares = torch.stack([g.flatten(1).float().pow(2).sum(1) for g in grads]).sum(0)
        factor = (self.clip / squares.sqrt().clamp(min=1e-12)).clamp(max=1.0)
        for g in grads:
            g.mul_(factor.view(-1, *(1,) * (g.dim() - 1)))

    def validation_step(self, batch: int, _: int) -> None:
        """Relative L2 error of whole rollouts, mean over runs and members."""
        if self.valid_data is None or self.truth is None or self._whole is None:
            return
        states = rolled_out(self.net, self.valid_data, self._whole)
        total = []
        for r in range(states.shape[1]):
            frames = along(self.curve, states[:, r])
            found = frames if self.expand is None else self.expand @ frames
            truth = self.truth[r, 1:]
            error = torch.where(self.known, 0.0, found[:, 1:] - truth)
            total.append(error.flatten(1).norm(dim=1) / truth.norm().clamp(min=1e-30))
        self.log("val/relative_l2", torch.stack(total).mean(), batch_size=1)


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    found = 0
    for n in numbers:
        found = (found * 1_000_003 + n + 1) % 2**63
    return found


class Numbers(LightningDataModule):
    """The numbers of the steps: everything else is on the device already."""

    def __init__(self, validates: bool) -> None:
        super().__init__()
        self.start, self.validates = 0, validates

    def set_start_step(self, step: int) -> None:
        """Where a resumed run goes on."""
        self.start = step

    def train_dataloader(self) -> Iterator[int]:
        """start, start + 1, .."""
        return _Count(self.start)  # type: ignore[return-value]

    def val_dataloader(self) -> list[int]:
        """One batch that stands for all runs."""
        return [0] if self.validates else []


class _Count:
    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1
