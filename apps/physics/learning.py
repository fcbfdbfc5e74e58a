"""Training of an ensemble: first at the coarse nodes, then through the splines; on a GPU each pass is one launch.

Shapes: K members, B windows a member and step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor

from farfield.apps.physics.clock import Clock, Windows, windows_of
from farfield.apps.physics.ensemble import along, rolled_out, whole_run
from farfield.apps.physics.graphsplinenets import GraphSplineNets, amplitude
from farfield.apps.physics.muon import Muon
from farfield.apps.physics.prepared import Prepared
from farfield.apps.physics.residual import Residual
from farfield.apps.training.schedule import cosine_with_warmup

# Draws made at once: a GPU waits for the CPU once in so many steps.
DRAWS = 256


class Stage(NamedTuple):
    """What a step of training is.

    Args:
        steps: Intervals of a window. nodal: Whether the loss is that of the coarse nodes and times alone.
    """

    steps: int
    nodal: bool


class Learning(LightningModule):
    """Loss, optimiser and validation.

    Args:
        net: The networks. train, valid: Data; valid may be None.
        clock: Coarse times. settings: recipes/physics/trainer/.
        max_steps: Of the whole run. seed: Of the draws. precision: fp32 or bf16.
        nodes_first: Share of the steps, the first ones, whose loss is that of the coarse nodes and times alone.
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
        nodes_first: float,
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
        self.clip, self.optimizer_name = float(settings["clip"] or 0), str(settings["optimizer"])
        self.unroll: list[int] = [int(w) for w in settings["unroll"]]
        self.nodes_first, self.nodes_weight = nodes_first, float(settings["nodes_weight"])
        self.residual = residual
        self.curve, self.expand, self.truth, self.known = curve, expand, truth, known
        self.windows = {w: windows_of(clock, clock.windows(w)) for w in set(self.unroll)}
        self._whole: Windows | None = None
        self._table: tuple[int, int, Tensor] | None = None
        self._generator: torch.Generator | None = None
        self.recorded = bool(settings["recorded"])
        self._recorded: dict[Stage, Recorded] = {}

    def stage(self, step: int) -> Stage:
        """What is done at an optimiser step: the lengths of windows share the steps evenly."""
        place = min(len(self.unroll) - 1, step * len(self.unroll) // max(1, self.max_steps))
        return Stage(self.unroll[place], step < self.nodes_first * self.max_steps)

    def configure_optimizers(self) -> Any:
        """Muon or AdamW; members' gradients do not mix, so neither do their moments."""
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "betas": (0.9, 0.98)}
        how["fused"] = self.device.type == "cuda"
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "muon":
            optimizer = Muon(*self.net.network.hidden(), **how)
        else:
            optimizer = torch.optim.AdamW(self.net.parameters(), **how)
        schedule = cosine_with_warmup(optimizer, self.max_steps, self.warmup_fraction, self.lr_min_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """The graph and the windows follow the networks to their device.

        Recordings made before are dropped: Lightning frees what cuBLAS works in when it takes a GPU.
        """
        self._recorded.clear()
        self.net.to_device(self.device)
        self.windows = {w: found.to(self.device) for w, found in self.windows.items()}
        self._whole = whole_run(self.clock, self.device)

    def on_fit_end(self) -> None:
        """What was recorded names addresses that the networks now leave."""
        self._recorded.clear()

    def training_step(self, batch: int, _: int) -> Tensor:
        """One optimiser step; batch is its number."""
        losses = self.gradients(batch, self.stage(batch))
        optimizer: Any = self.optimizers()
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return losses.mean()

    def gradients(self, step: int, stage: Stage) -> Tensor:
        """Gradients of an optimiser step, into the parameters' own; the losses (K,)."""
        index = self.drawn(step, stage.steps)
        if self.recorded and self.device.type == "cuda":
            if stage not in self._recorded:
                self._recorded[stage] = Recorded(self, stage, index)
            return self._recorded[stage](index, step)
        return self.passed(index, stage, self.disturb(self.empty_noise(index), step))

    def passed(self, index: Tensor, stage: Stage, noise: Tensor) -> Tensor:
        """Forward and backward pass: the losses (K,), gradients into the parameters' own."""
        grads = []
        for p in self.net.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            grads.append(p.grad)
        torch._foreach_zero_(grads)
        losses = self.losses(index, stage, noise)
        torch.autograd.backward([losses.sum()])
        self.clip_members(grads)
        return losses.detach()

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

    def losses(self, index: Tensor, stage: Stage, noise: Tensor) -> Tensor:
        """(K,)."""
        windows, data, by_run = self.windows[stage.steps], self.train_data, self.net.by_run
        start, known, targets, kind = data.draw(index, windows)
        size = self.noise * (amplitude(start) if by_run else 1.0)
        noisy = torch.where(self.net.held, start, start + size * noise) if self.noise else start
        bf16 = self.precision_name == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            states = self.net(noisy, known)
        # The curve begins at the state that is known, not at the one that was disturbed.
        states = torch.cat([start[:, :, None], states[:, :, 1:]], 2).float()
        cost = torch.zeros_like(states[:, 0, 0, 0, 0])
        if stage.nodal or self.nodes_weight:
            weight = 1.0 if stage.nodal else self.nodes_weight
            cost = cost + weight * data.nodal_loss(states, targets, windows.fill[kind], by_run)
        if not stage.nodal:
            cost = cost + data.loss(states, targets, windows.curve[kind], windows.weights[kind], by_run)
        if self.residual is not None:
            cost = cost + self.residual(states, known, index, windows)
        return cost

    def clip_members(self, grads: list[Tensor]) -> None:
        """Each member's gradient to a norm of `clip` at most."""
        if not self.clip:
            return
        norms = torch.cat([g.flatten(1) for g in grads], 1).norm(dim=1)
        factors = (self.clip / norms.clamp(min=1e-12)).clamp(max=1.0)
        for k, factor in enumerate(factors.unbind()):
            torch._foreach_mul_([g[k] for g in grads], factor)

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


class Recorded:
    """Forward and backward pass of one stage, recorded once on a GPU and replayed: one launch.

    What is recorded names memory by its address: index and noise are its own and filled in place, all else belongs to
    the module and stays where it is. The stream is its own too: what cuBLAS works in belongs to a stream, and torch
    frees it together with any recording made on that stream.
    """

    def __init__(self, module: Learning, stage: Stage, index: Tensor) -> None:
        self.module, self.index, self.noise = module, index.clone(), module.empty_noise(index)
        self.read = (module.net.graph, module.windows[stage.steps], module.train_data)
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                module.passed(self.index, stage, self.noise)
        torch.cuda.current_stream().wait_stream(self.stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.losses = module.passed(self.index, stage, self.noise)
        self.grads = [p.grad for p in module.net.parameters()]

    def __call__(self, index: Tensor, step: int) -> Tensor:
        """Gradients of these windows, in place; their losses (K,)."""
        self.index.copy_(index)
        self.module.disturb(self.noise, step)
        self.graph.replay()
        for p, grad in zip(self.module.net.parameters(), self.grads, strict=True):
            p.grad = grad
        return self.losses.clone()


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
