"""Training of a SpaceTime network on windows: bit-repeatable for a seed, selected on validation."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from farfield.apps.forecasting.graph import GraphedStep
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Batch, Windows
from farfield.apps.training.device import autocast_for, resolve_device
from farfield.apps.training.errors import UserError
from farfield.apps.training.memory import kept_memory

CLOSED_LOOP = (1.0, 0.0, 0.0)


@dataclass
class Epoch:
    """What an epoch came to: mean training loss, mean square and absolute error of all validation windows."""

    number: int
    loss: float
    mse: float
    mae: float
    seconds: float


@dataclass
class History:
    """What training did; epoch 0 is the network before the first step.

    Attributes:
        epochs: In their order.
        best: The epoch whose weights the network holds.
        seconds: Whole time.
        stopped: Why: epochs, patience or seconds.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0
    stopped: str = "epochs"

    @property
    def mse(self) -> float:
        """Validation error of the best epoch."""
        return self.epochs[self.best].mse


def train(
    net: SpaceTime,
    windows: Windows,
    validation: Windows,
    *,
    seed: int = 0,
    epochs: int = 50,
    batch_size: int = 50,
    lr: float = 1e-3,
    patience: int = 10,
    seconds: float | None = None,
    device: str = "auto",
    precision: str = "fp32",
    weight_decay: float = 1e-4,
    weights: tuple[float, float, float] = CLOSED_LOOP,
    average: float = 0.0,
    skip_lr: float = 1.0,
    warmup: float = 0.05,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Trains with AdamW under a cosine rate, and leaves in the network the weights of the best validation epoch.

    Every window is seen once in an epoch, the last batch holding what is left. Validation is the mean over all windows.
    The same seed, windows and machine give the same bits; the caller's random state is left alone.

    Args:
        net: Trained in place; ends on the device that it was trained on.
        windows, validation: To learn from and to select on.
        seed: Of the order and the dropout; initial weights are the caller's (see `SpaceTime.seeded`).
        epochs: At most; the rate falls to a hundredth at the last.
        batch_size: Windows of a step.
        lr: Highest rate.
        patience: Epochs without a better validation error before it ends.
        seconds: Stop after so long (None: never); the result then depends on the machine's speed.
        device, precision: As everywhere.
        weight_decay: Of AdamW, on matrices of mixing and head.
        weights: Of the loss's three terms.
        average: Decay of an exponential mean of the weights a step, which is then what is validated and kept; 0: none.
        skip_lr: Rate of the linear skip, relative to lr.
        warmup: Part of all steps in which the rate rises.
        on_epoch: Called after every epoch.
    Returns: The history.
    Raises: UserError: a setting out of range; a loss that is no number.
    """
    _check(epochs=epochs, batch_size=batch_size, patience=patience)
    began = time.monotonic()
    place = resolve_device(device)
    net.to(place)
    windows, validation = windows.to(place), validation.to(place)
    history = History()
    with _seeded(seed, place), kept_memory():
        order = torch.Generator().manual_seed(seed)
        steps_an_epoch = math.ceil(len(windows) / batch_size)
        optimiser = torch.optim.AdamW(
            _groups(net, lr, weight_decay, skip_lr), betas=(0.9, 0.99), capturable=place.type == "cuda"
        )
        if place.type == "cuda":
            # A captured step reads the rate of the moment from a tensor.
            for group in optimiser.param_groups:
                group["lr"] = torch.full((), lr, device=place)
        mean = copy.deepcopy(net) if average else net
        step = GraphedStep(net, optimiser, weights, precision, place)
        done = 0
        best = _weights(net)
        for number in range(epochs + 1):
            losses: list[Tensor] = []
            if number:
                net.train()
                shuffled = torch.randperm(len(windows), generator=order).to(place)
                for rows in torch.split(shuffled, batch_size):
                    factor = _rate(done, epochs * steps_an_epoch, warmup)
                    _set_rates(optimiser, lr * factor)
                    losses.append(step(windows.batch(rows)))
                    done += 1
                    if average:
                        _follow(mean, net, min(average, done / (done + 10)))
            mse, mae = errors(mean, validation, precision=precision)
            loss = float(torch.stack(losses).mean()) if losses else float("nan")
            if number and not math.isfinite(loss):
                raise UserError(f"the loss of epoch {number} is {loss}: take a lower lr than {lr}, or check the series")
            history.epochs.append(Epoch(number, loss, mse, mae, time.monotonic() - began))
            if mse < history.mse or number == 0:
                history.best, best = number, _weights(mean)
            if on_epoch is not None:
                on_epoch(history.epochs[-1])
            if number - history.best >= patience:
                history.stopped = "patience"
                break
            if seconds is not None and time.monotonic() - began > seconds:
                history.stopped = "seconds"
                break
    net.load_state_dict(best)
    net.eval()
    history.seconds = time.monotonic() - began
    return history


@torch.no_grad()
def errors(net: SpaceTime, windows: Windows, *, batch_size: int = 256, precision: str = "fp32") -> tuple[float, float]:
    """Mean square and mean absolute error over everything observed in all windows.

    Args:
        net: On the device of the windows.
        windows: Every one counts alike, the last partial batch too.
    """
    net.eval()
    square, absolute, count = 0.0, 0.0, 0
    for batch in windows.batches(batch_size):
        with autocast_for(precision, batch.y.device):
            y = net(batch.y, batch.known, batch.past, batch.observed, batch.future.shape[1])
        gap = (y - batch.future).double()
        if batch.future_observed is not None:
            gap = gap[batch.future_observed]
        square += float(gap.square().sum())
        absolute += float(gap.abs().sum())
        count += gap.numel()
    return square / max(count, 1), absolute / max(count, 1)


def _set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        value = rate * group["relative"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def _groups(net: SpaceTime, lr: float, weight_decay: float, skip_lr: float) -> list[dict[str, object]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    skip: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        if name.startswith("skip."):
            skip.append(parameter)
        else:
            (decayed if name.endswith("weight") else plain).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay, "relative": 1.0, "lr": lr},
        {"params": plain, "weight_decay": 0.0, "relative": 1.0, "lr": lr},
    ]
    return (
        [*groups, {"params": skip, "weight_decay": 0.0, "relative": skip_lr, "lr": lr}] if skip and skip_lr else groups
    )


def _rate(step: int, steps: int, warmup: float) -> float:
    rising = max(1.0, warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


@torch.no_grad()
def _follow(mean: SpaceTime, net: SpaceTime, decay: float) -> None:
    torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), 1 - decay)


def _weights(net: SpaceTime) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "epochs" else 1):
            raise UserError(f"{name}={value!r}: a whole number from {0 if name == 'epochs' else 1} on is accepted")


__all__ = ["Batch", "Epoch", "History", "errors", "train"]
