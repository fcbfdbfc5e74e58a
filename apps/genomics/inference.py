"""A whole long sequence through HyenaDNA in one pass, within a stated amount of memory, without gradients.

Shapes: B batch, L tokens, d channels, n order, c channels at a time, F width of the filters' network.

What is held: the residual stream (B, L, d), one mixed stream of the same size (B, d, L), the filters' features (L, F),
and for c channels at a time the n gated inputs, the n - 1 filters and the convolution's own work. All else is
computed for a tile of tokens at a time. The numbers are those of the plain forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farfield.apps.genomics.hyena_filter import Positions
from farfield.apps.genomics.hyenadna import Block, HyenaDNA, HyenaDNAConfig
from farfield.apps.training.errors import UserError
from farfield.core_ops import fftconv, short_conv
from farfield.core_ops.fftconv.crew import Crew, Lane, serial

Want = Literal["logits", "log_likelihood", "hidden"]
WANTS: tuple[Want, ...] = ("logits", "log_likelihood", "hidden")
Progress = Callable[[int, int], None]
Tile = Callable[[int, int], None]
# Tokens at a time where tokens are independent of each other, so that a tile stays in cache.
TILE = 2048
# What fftconv may need for itself (its own bound), and channels at a time when memory is not limited.
CONVOLUTION_SCRATCH = 256 * 2**20
CHANNELS = 32


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that `forward_long` needs, beside the interpreter and its libraries (some 0.3 GB)."""

    parameters: int
    streams: int
    features: int
    channel: int
    tiles: int
    output: int

    def total(self, channels: int = CHANNELS) -> int:
        """Bytes with so many channels at a time."""
        held = self.parameters + self.streams + self.features + self.tiles + self.output
        return held + CONVOLUTION_SCRATCH + channels * self.channel


def memory_estimate(
    config: HyenaDNAConfig, seqlen: int, *, batch: int = 1, want: Want = "logits", itemsize: int = 4
) -> MemoryEstimate:
    """What `forward_long` will need, before anything is allocated.

    streams = 2 B L d, features = L F + 3 l_max emb_dim, channel = B L (n + 2) + L (n - 1) for each of the c channels,
    tiles = 3 B (d_inner + (n + 2) d) for each token of a tile and each of torch's threads.

    Args:
        config: The model's shape.
        seqlen: Tokens L.
        batch: Sequences B.
        want: As of `forward_long`.
        itemsize: Bytes of one number: 4, or 8 in a float64 model.
    Returns: The parts in bytes; `.total(channels)` is their sum.
    """
    assert config.d_inner is not None
    n, d, tokens = config.order, config.d_model, batch * seqlen
    width = {"logits": config.padded_vocab, "log_likelihood": 1, "hidden": 0}[want]
    return MemoryEstimate(
        parameters=itemsize * config.parameters,
        streams=itemsize * 2 * tokens * d,
        features=itemsize * (seqlen * config.filter_order + 3 * config.l_max * config.emb_dim),
        channel=itemsize * (tokens * (n + 2) + seqlen * (n - 1)),
        tiles=itemsize * 3 * TILE * batch * (config.d_inner + (n + 2) * d) * torch.get_num_threads(),
        output=itemsize * tokens * width,
    )


@torch.inference_mode()
def forward_long(
    model: HyenaDNA,
    ids: Tensor,
    *,
    memory_limit: int | None = None,
    want: Want = "logits",
    channels: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The model's output for long sequences, in one pass and bounded memory.

    Args:
        model: A language model (a classifier for want="hidden"), used as in evaluation mode.
        ids: Token ids (B, L), L at most model.config.l_max.
        memory_limit: Bytes that this call may allocate (see `memory_estimate`); None: as much as is fastest.
        want: "logits" (B, L, V); "log_likelihood" (B, L - 1), natural log of the probability of ids[:, t + 1] given all
            before it; "hidden" (B, L, d) after the final norm.
        channels: Channels at a time, instead of as many as the limit allows.
        progress: Called with (parts done, all parts) while it goes on.
    Returns: What was wanted, in fp32 (float64 for a float64 model).
    Raises: UserError: the ids do not fit the model, or the limit is too small (the message says what is needed).
    Complexity: O(B d (L log L + d L)) time; `memory_estimate(...).total(channels)` bytes.
    """
    if want not in WANTS:
        raise UserError(f"forward_long: want={want!r}; accepted: {', '.join(map(repr, WANTS))}")
    if want != "hidden" and model.head is not None:
        raise UserError(f"forward_long: want={want!r} of a classifier; a language model or want='hidden' is accepted")
    if channels is not None and channels < 1:
        raise UserError(f"forward_long: channels={channels}; 1 to d_model are accepted")
    model.check_input(ids)
    config, (batch, seqlen) = model.config, ids.shape
    dtype = torch.promote_types(model.backbone.table.dtype, torch.float32)
    need = memory_estimate(config, seqlen, batch=batch, want=want, itemsize=dtype.itemsize)
    c = min(config.d_model, channels or _affordable(need, memory_limit))
    x = F.embedding(ids, model.backbone.table.to(dtype))
    work = _Work(
        progress=progress,
        total=config.n_layer * (-(-config.d_model // c) + 2) + 1,
        channels=c,
        mixed=x.new_empty(batch, config.d_model, seqlen),
        features=x.new_empty(seqlen, config.filter_order),
        gated=x.new_empty(config.order, batch, c, seqlen),
        taps=x.new_empty(config.order - 1, c, seqlen),
    )
    where = model.positions(seqlen)
    for block in model.backbone.layers:
        assert isinstance(block, Block)
        _mix(block, x, where, work)
        _project_out(block, x, work)
    return _output(model, ids, x, want, work)


def _affordable(need: MemoryEstimate, limit: int | None) -> int:
    """Channels at a time within the limit."""
    if limit is None:
        return CHANNELS
    c = min(CHANNELS, (limit - need.total(0)) // need.channel)
    if c < 1:
        least = need.total(1)
        raise UserError(
            f"forward_long: memory_limit={limit:,} bytes came, {least:,} are the least for these sequences; raise it, "
            "or give fewer or shorter sequences"
        )
    return c


@dataclass
class _Work:
    """Memory used again and again, and how far the work is."""

    progress: Progress | None
    total: int
    channels: int
    mixed: Tensor
    features: Tensor
    gated: Tensor
    taps: Tensor
    done: int = 0

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def tiles(self, length: int, tile: int, do: Callable[[int, int], None]) -> None:
        """Calls do(start, end) for every tile, on each core another one: their operators are too small to share."""
        on_cpu = self.mixed.device.type == "cpu"
        crew = Crew.of_caller() if on_cpu else None
        each = serial(Lane()) if crew is None else crew.each([Lane() for _ in range(crew.size)])
        each(-(-length // tile), lambda i, _: do(i * tile, min((i + 1) * tile, length)))


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _mix(block: Block, x: Tensor, where: Positions, work: _Work) -> None:
    """The long convolutions of one layer, some channels at a time, from the residual stream x into work.mixed."""
    f = block.mixer.filter_fn
    z, t = f.where(where)

    def features(s: int, e: int) -> None:
        work.features[s:e] = f.features(z[s:e])

    work.tiles(len(z), TILE, features)
    work.step()
    skip = f.skip()
    for first in range(0, x.shape[2], work.channels):
        rows = slice(first, min(first + work.channels, x.shape[2]))
        gated, k = work.gated[:, :, : rows.stop - first], work.taps[:, : rows.stop - first]
        project = _projection(block, x, rows, gated)

        def prepare(s: int, e: int, k: Tensor = k, rows: slice = rows, project: Tile = project) -> None:
            k[..., s:e] = f.taps(work.features[s:e], t[s:e], rows)
            project(s, e)

        work.tiles(len(z), TILE, prepare)
        v = gated[0]
        for o, gate in enumerate(gated[1:]):
            v = fftconv(v, k[o], skip=skip[o, rows], postgate=gate)
        work.mixed[:, rows] = v
        work.step()


def _projection(block: Block, x: Tensor, rows: slice, gated: Tensor) -> Tile:
    """Writes some channels' v x_{n-1}, x_{n-2}, ... x_0 (norm, projection, short convolution) of a tile to gated."""
    op, n, (batch, _, d) = block.mixer, len(gated), x.shape
    assert op.short_filter.bias is not None

    def chosen(parameter: Tensor) -> Tensor:
        return parameter.to(x.dtype).reshape(n + 1, d, -1)[:, rows].flatten(0, 1)

    weight, bias = chosen(op.in_proj.weight).expand(batch, -1, -1), chosen(op.in_proj.bias)
    taps, offset = chosen(op.short_filter.weight), chosen(op.short_filter.bias)[:, 0]
    # A tile needs the tokens before it that the short convolution still sees; before the first there are none.
    before = taps.shape[1] - 1

    def project(s: int, e: int) -> None:
        seen = max(0, s - before)
        u = torch.baddbmm(bias, weight, _norm(block.norm1, x[:, seen:e]).transpose(1, 2))
        *gates, last, v = short_conv(u, taps, offset)[..., s - seen :].chunk(n + 1, dim=1)
        torch.mul(last, v, out=gated[0, ..., s:e])
        for kept, gate in zip(gated[1:], reversed(gates), strict=True):
            kept[..., s:e] = gate

    return project


def _project_out(block: Block, x: Tensor, work: _Work) -> None:
    """x + out_proj(mixed), then x + mlp(norm2(x)), in place."""

    def finish(s: int, e: int) -> None:
        tile = x[:, s:e]
        tile += _linear(block.mixer.out_proj, work.mixed[..., s:e].transpose(1, 2))
        inner = F.gelu(_linear(block.mlp.fc1, _norm(block.norm2, tile)), approximate="tanh")
        tile += _linear(block.mlp.fc2, inner)

    work.tiles(x.shape[1], TILE, finish)
    work.step()


def _output(model: HyenaDNA, ids: Tensor, x: Tensor, want: Want, work: _Work) -> Tensor:
    """Final norm and what was wanted of it."""
    table, (batch, length, _) = model.backbone.table.to(x.dtype), x.shape
    width = {"logits": model.config.padded_vocab, "log_likelihood": 1, "hidden": 0}[want]
    out = x if want == "hidden" else x.new_empty(batch, length, width)

    def finish(s: int, e: int) -> None:
        result = _norm(model.backbone.ln_f, x[:, s:e])
        if want != "hidden":
            result = F.linear(result, table)
        if want == "log_likelihood":
            target = ids[:, s + 1 : e + 1, None].long()
            result = result[:, : target.shape[1]].log_softmax(2).gather(2, target)
        out[:, s : s + result.shape[1]] = result

    work.tiles(length, TILE, finish)
    work.step()
    return out[:, : length - 1, 0] if want == "log_likelihood" else out
