"""The long filters of Hyena: a small sine network over positions, faded by exponentials.

Shapes: L positions, E = emb_dim, F = filter_order, O = order - 1 convolutions, d = d_model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FilterLayout = Literal["(o d)", "(d o)"]

# Time after which the fastest and the slowest channel have faded to 1 % of their start, as a fraction of l_max.
FASTEST, SLOWEST, FADED = 0.3, 1.5, 0.01


class Positions(NamedTuple):
    """Where the filters are sampled: features z (L, E) and times t (L,) in [0, 1]."""

    z: Tensor
    t: Tensor


def positions(l_max: int, emb_dim: int, seqlen: int, device: torch.device | str = "cpu") -> Positions:
    """The first seqlen of the l_max samples of time and of its sines, in fp32 whatever the model's dtype.

    t = linspace(0, 1, l_max); z = [t, Re e, Im e] with e = exp(-i f w), w = 2 pi j / l_max for the sample j and
    f = linspace(1e-4, bands - 1, bands), bands = (emb_dim - 1) / 2.

    Args:
        l_max: Samples of the whole grid: the filters stretch with it.
        emb_dim: Features a position, odd and at least 3.
        seqlen: Samples wanted, at most l_max.
    Returns: z (seqlen, emb_dim) and t (seqlen,).
    Complexity: O(l_max + seqlen emb_dim).
    Source: Nguyen et al. 2023, "HyenaDNA", arXiv:2306.15794; Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866.
    """
    bands = (emb_dim - 1) // 2
    t = torch.linspace(0, 1, l_max, device=device)[:seqlen]
    w = torch.linspace(0, l_max - 1, l_max, device=device)[:seqlen] * (2 * math.pi) / l_max
    f = torch.linspace(1e-4, bands - 1, bands, device=device)
    angle = f * w[:, None]
    # exp of a complex number, not cos and sin: they differ in the last bit, and this one is what checkpoints hold.
    e = torch.exp(torch.complex(torch.zeros_like(angle), -angle))
    return Positions(torch.cat([t[:, None], e.real, e.imag], dim=1), t)


class Sin(nn.Module):
    """sin(freq x) with a trained frequency a unit."""

    def __init__(self, features: int, w: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, features), float(w)))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., features) to the same shape."""
        return torch.sin(self.freq.to(x.dtype) * x)


class StoredPositions(nn.Module):
    """Positions that a checkpoint brings and that are not the default; they stay fp32 when the model is cast down."""

    z: Tensor | None
    t: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("z", None)
        self.register_buffer("t", None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredPositions:
        kept = {name: b for name, b in self._buffers.items() if b is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, b in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype.itemsize < b.dtype.itemsize:
                self._buffers[name] = b.to(moved.device)
        return self


class Modulation(nn.Module):
    """Fading a channel: exp(-t |delta|) + shift, delta from slow to fast."""

    deltas: Tensor

    def __init__(self, channels: int, shift: float) -> None:
        super().__init__()
        slow, fast = math.log(FADED) / SLOWEST, math.log(FADED) / FASTEST
        self.shift = shift
        self.register_buffer("deltas", torch.linspace(slow, fast, channels).view(1, 1, channels))


class HyenaFilter(nn.Module):
    """The O filters of one layer, k = MLP(z) * (exp(-t |delta|) + shift), with their skip weights `bias`.

    Args:
        d_model: Channels d.
        order: Order of the operator; O = order - 1 filters a channel.
        emb_dim: Features of a position, E.
        filter_order: Width F of the network.
        num_inner_mlps: Hidden layers of the network after its first.
        w: Frequency of the sines at the start.
        shift: What the fading tends to (0.05 in the published models, 0.0 in the public training code).
        layout: Whether output channel o d_model + i ("(o d)") or i O + o ("(d o)") holds filter o of channel i.
    """

    def __init__(
        self,
        d_model: int,
        order: int,
        *,
        emb_dim: int = 5,
        filter_order: int = 64,
        num_inner_mlps: int = 2,
        w: float = 10.0,
        shift: float = 0.05,
        layout: FilterLayout = "(o d)",
    ) -> None:
        super().__init__()
        self.d_model, self.filters, self.layout = d_model, order - 1, layout
        channels = self.filters * d_model
        self.bias = nn.Parameter(torch.randn(channels))
        self.pos_emb = StoredPositions()
        act = Sin(filter_order, w)
        inner: list[nn.Module] = []
        for _ in range(num_inner_mlps):
            inner += [nn.Linear(filter_order, filter_order), act]
        self.implicit_filter = nn.Sequential(
            nn.Linear(emb_dim, filter_order), act, *inner, nn.Linear(filter_order, channels, bias=False)
        )
        self.modulation = Modulation(channels, shift)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype filters are made in: float64 in a float64 model, otherwise fp32."""
        return torch.promote_types(self.bias.dtype, torch.float32)

    def where(self, default: Positions) -> Positions:
        """The positions this layer samples: the stored ones where a checkpoint brought its own."""
        n = default.t.shape[0]
        z = default.z if self.pos_emb.z is None else self.pos_emb.z[0, :n]
        t = default.t if self.pos_emb.t is None else self.pos_emb.t[0, :n, 0]
        return Positions(z, t)

    def by_order(self, x: Tensor) -> Tensor:
        """A tensor over the output channels (O d, ...) as (O, d, ...)."""
        if self.layout == "(o d)":
            return x.reshape(self.filters, self.d_model, *x.shape[1:])
        return x.reshape(self.d_model, self.filters, *x.shape[1:]).transpose(0, 1)

    def skip(self) -> Tensor:
        """The skip weights D (O, d), in the dtype of the filters."""
        return self.by_order(self.bias.to(self.dtype))

    def features(self, z: Tensor) -> Tensor:
        """What the network knows of each position before its last layer: z (L, E) to (L, F)."""
        h = z.to(self.dtype)
        for layer in list(self.implicit_filter)[:-1]:
            h = F.linear(h, *self._at_dtype(layer)) if isinstance(layer, nn.Linear) else layer(h)
        return h

    def taps(self, h: Tensor, t: Tensor, channels: slice = slice(None)) -> Tensor:
        """The filters of some channels: features h (L, F) and times t (L,) to (O, channels, L)."""
        last = self.implicit_filter[-1]
        assert isinstance(last, nn.Linear)
        weight = self.by_order(last.weight.to(self.dtype))[:, channels].flatten(0, 1)
        speed = self.by_order(self.modulation.deltas.to(self.dtype).flatten().abs())[:, channels].flatten()
        fading = torch.exp(-speed[:, None] * t.to(self.dtype)) + self.modulation.shift
        return (weight @ h.T * fading).reshape(self.filters, -1, t.shape[0])

    def forward(self, default: Positions) -> Tensor:
        """All filters at the given positions, (O, d, L)."""
        z, t = self.where(default)
        # Autocast would round positions to 16 bits: at a million of them 1,781 distinct times are left.
        with torch.autocast(z.device.type, enabled=False):
            return self.taps(self.features(z), t)

    def _at_dtype(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        return layer.weight.to(self.dtype), None if layer.bias is None else layer.bias.to(self.dtype)
