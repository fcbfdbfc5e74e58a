"""A training step of SpaceTime in its published configuration, against the data flow of the released network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import Bench, Row, main, measure_together, shape, speedup
from farfield.apps.forecasting.graph import GraphedStep
from farfield.apps.forecasting.level import measure
from farfield.apps.forecasting.spacetime import SpaceTime, SpaceTimeConfig, rmse
from farfield.apps.forecasting.windows import Batch
from farfield.apps.training.memory import kept_memory

LAG, HORIZON = 336, 720
LOSSES = {"closed": (1.0, 0.0, 0.0), "three-term": (1.0, 1.0, 1.0)}
BATCH = 50
# On a CPU the plain flow's (B, D, d, T) states leave memory and time for fewer.
PLAIN_BATCH = 10
QUICK = {"lag": 48, "horizon": 32, "model_dim": 16, "kernel_dim": 8, "n_kernels": 2}
TOLERANCE = 2e-3


def dense(a: Tensor) -> Tensor:
    """Companion matrices with a as their last column."""
    matrix = torch.diag(torch.ones(a.shape[1] - 1, dtype=a.dtype, device=a.device), -1).repeat(len(a), 1, 1)
    return matrix + torch.nn.functional.pad(a[..., None], (a.shape[1] - 1, 0))


def powers(matrix: Tensor, v: Tensor, length: int) -> Tensor:
    """v, A v, A^2 v, ... by repeated squaring, v (..., d, 1)."""
    out = v
    while out.shape[-1] < length:
        out = torch.cat([out, matrix @ out], -1)
        matrix = matrix @ matrix
    return out[..., :length]


def fft_convolution(u: Tensor, k: Tensor) -> Tensor:
    """Causal convolution over the last axis, by FFTs of twice the length."""
    length = u.shape[-1]
    y: Tensor = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length)
    return y[..., :length]


def plain_loss(net: SpaceTime, batch: Batch, weights: tuple[float, float, float]) -> Tensor:
    """The loss of a released network of one block and one target, every channel and state written out.

    States of all lags (B, D, d, L) by FFTs, of which the last is kept; states of all steps ahead (B, D, d, T).
    """
    config, lag = net.config, batch.y.shape[1]
    level = measure(batch.y, None, config)
    u = level.apply(batch.y).mT.expand(-1, config.channels, -1)
    block, head, loop = net.encoder.layers()[0], net.output, net.decoder.blocks
    assert block.pre is not None
    z = fft_convolution(u, torch.nn.functional.pad(block.pre.filters(), (0, max(0, lag - config.max_average)))[:, :lag])
    a, b, c = block.ssm.system()
    k = torch.einsum("hd,hdl->hl", c, powers(dense(a), b[..., None], lag)).repeat_interleave(
        config.channels // len(a), 0
    )
    v = fft_convolution(z, k) + block.ssm.skip[:, None] * z
    z = z + v + block.mlp(v.transpose(0, 1)).transpose(0, 1)
    a, drive, b, c, k = loop.parts()
    kernels = powers(dense(a), drive[..., None], lag)
    x = fft_convolution(z[:, :, None], kernels[None])[..., -1]
    states = powers(dense(a) + b[..., None] * k[:, None], x[..., None], batch.future.shape[1])
    y = level.invert(head(torch.einsum("hd,bhdt->hbt", c, states)).permute(1, 2, 0))
    loss = weights[0] * rmse(y, batch.future, None)
    if not weights[1]:
        return loss
    size = config.kernel_dim
    k = loop.ssm.k / loop.ssm.k.abs().sum(-1, keepdim=True)
    kernels = powers(dense(a), b[..., None], lag)
    said, inputs = (fft_convolution(z, torch.einsum("hd,hdl->hl", w, kernels)) for w in (c, k))
    y = level.invert(head(said.transpose(0, 1)).permute(1, 2, 0))
    series = torch.cat([batch.y, batch.future[:, :1]], 1)
    loss = loss + weights[1] * rmse(y[:, size - 1 :], series[:, size:], None)
    return loss + weights[2] * rmse(inputs[..., size - 1 : -1], z[..., size:], None)


def with_gradients(net: SpaceTime, loss: Callable[[], Tensor]) -> list[Tensor]:
    """The loss and its gradients."""
    parameters = [p for name, p in net.named_parameters() if name != "decoder.blocks.ssm.skip"]
    value = loss()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return [value.detach(), *(g for g in gradients if g is not None)]


def windows(config: SpaceTimeConfig, batch: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """Random walks."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(batch, config.lag + config.horizon, 1, generator=g, dtype=torch.float64).cumsum(1) / 10
    y = y.to(device, dtype)
    return Batch(y[:, : config.lag], y[:, config.lag :], None, None, None, None)


def sizes_of(config: SpaceTimeConfig, batch: int, loss: str) -> str:
    """The column `shape` of a row."""
    return shape(B=batch, L=config.lag, T=config.horizon, D=config.channels, d=config.kernel_dim, loss=loss)


def cases(bench: Bench) -> Iterator[Row]:
    """Loss and gradients beside the plain flow, then whole training steps."""
    sizes = QUICK if bench.quick else {"lag": LAG, "horizon": HORIZON}
    released = SpaceTimeConfig(**sizes, compat=True, dropout=0.0)  # type: ignore[arg-type]
    net = SpaceTime.seeded(released, 0).to(bench.device)
    wide = SpaceTime.seeded(released, 0).double().to(bench.device)
    wide.load_state_dict(net.state_dict())
    count = 2 if bench.quick else BATCH if bench.device.type == "cuda" else PLAIN_BATCH
    batch, batch64 = (windows(released, count, bench.device, t) for t in (torch.float32, torch.float64))
    for name, weights in LOSSES.items():
        where = shape(
            B=count, L=released.lag, T=released.horizon, D=released.channels, d=released.kernel_dim, loss=name
        )
        providers: dict[str, Callable[[], list[Tensor]]] = {
            "farfield": lambda w=weights: with_gradients(net, lambda: net.loss(batch, w)),  # type: ignore[misc]
            "plain": lambda w=weights: with_gradients(net, lambda: plain_loss(net, batch, w)),  # type: ignore[misc]
        }
        times = measure_together(
            providers,
            expected=with_gradients(wide, lambda w=weights: wide.loss(batch64, w)),  # type: ignore[misc]
            tolerance=TOLERANCE,
            seconds=bench.seconds,
        )
        for provider, t in times.items():
            yield bench.row("spacetime", provider, "fwdbwd", where, "fp32", times=t)
        ratio = speedup(times, "farfield", "plain")
        yield bench.row("spacetime", "farfield", "fwdbwd", where, "fp32", metric="speedup_over_plain", value=ratio)
    yield from steps(bench, SpaceTimeConfig(**sizes))  # type: ignore[arg-type]


def steps(bench: Bench, config: SpaceTimeConfig) -> Iterator[Row]:
    """Whole steps of the corrected network with dropout: loss, gradients, clipping, AdamW."""
    batch = windows(config, 4 if bench.quick else BATCH, bench.device)
    providers: dict[str, Callable[[], Tensor]] = {}
    for name, weights in LOSSES.items():
        net = SpaceTime.seeded(config, 0).to(bench.device).train()
        rate = torch.tensor(1e-3, device=bench.device) if bench.device.type == "cuda" else 1e-3
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, capturable=bench.device.type == "cuda")
        step = GraphedStep(net, optimiser, weights, "fp32", bench.device)
        # A captured step runs from its fifth call on.
        for _ in range(5):
            step(batch)
        providers[name] = lambda step=step: step(batch)  # type: ignore[misc]
    parameters = sum(p.numel() for p in SpaceTime(config).parameters())
    with kept_memory():
        measured = measure_together(providers, seconds=2 * bench.seconds)
    for name, t in measured.items():
        where = f"{sizes_of(config, len(batch.y), name)} parameters={parameters} step=adamw"
        yield bench.row("spacetime", "farfield", "fwdbwd", where, "fp32", times=t)


if __name__ == "__main__":
    main("spacetime", cases)
