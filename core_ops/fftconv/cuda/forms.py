"""Every mode as one convolution of rows that the kernels hold: causal, or circular with a power of two as its period.

Shapes: u, pregate (B, H, L); postgate, dy (B, H, outputs); k (G, Lk); skip (H,); rows of a form (B, H, form.length).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..composite import alias
from .plan import ONE_LAUNCH, fft_size

Gate = Tensor | None
# (u, k, pregate, postgate, skip, circular, taps before lag 0) -> y of u's shape; for its gradients dy stands in front:
# (du, dk fp32, dpregate, dpostgate, dskip fp32).
Convolve = Callable[[Tensor, Tensor, Gate, Gate, Gate, bool, int], Tensor]
Gradients = tuple[Tensor, Tensor, Gate, Gate, Gate]
Differentiate = Callable[[Tensor, Tensor, Tensor, Gate, Gate, Gate, bool, int], Gradients]
# The least period that a circular kernel holds; its periods are powers of two.
LEAST = 128


@dataclass(frozen=True)
class Form:
    """A call as rows: the last `before` samples of u, u, zeros; of what comes out, the outputs from `first` on.

    Args:
        length: Samples of a row. before, first: See above. inputs, outputs: Samples of u and of the output.
        alias: Period that the taps are folded onto, 0 for none. k0, k1: The taps used, after that.
        lag0: Which of them has lag 0 in the call: there skip adds. circular: Whether a row's period is its length.
        lead: Taps that stand before lag 0 in the rows too.
    """

    length: int
    inputs: int
    outputs: int
    k1: int
    k0: int = 0
    before: int = 0
    first: int = 0
    alias: int = 0
    lag0: int = 0
    circular: bool = False
    lead: int = 0

    def filters(self, k: Tensor, skip: Gate, channels: int) -> tuple[Tensor, Gate]:
        """The rows' taps in fp32 and their skip: one filter a channel where skip adds to a later tap."""
        k = alias(k.float(), self.alias) if self.alias else k
        if k.dtype != torch.float32 or k.shape[1] != self.k1 - self.k0 or not k.is_contiguous():
            k = k[:, self.k0 : self.k1].float().contiguous()
        if skip is None or not self.lag0:
            return k, skip
        k = k.repeat_interleave(channels // k.shape[0], 0)
        k[:, self.lag0] += skip
        return k, None

    def filters_back(self, dk: Tensor, dskip: Gate, groups: int, taps: int, skip: bool) -> tuple[Tensor, Gate]:
        """The gradients of k (G, taps) and skip from those of `filters`."""
        if skip and self.lag0:
            dskip = dk[:, self.lag0].contiguous()
            dk = dk.view(groups, -1, dk.shape[1]).sum(1)
        if self.alias:
            return dk.repeat(1, -(-taps // self.alias))[:, :taps], dskip
        return (dk if dk.shape[1] == taps else pad(dk, (self.k0, taps - self.k1))), dskip

    def inward(self, x: Gate, dtype: torch.dtype) -> Gate:
        """u or pregate as rows, each at a multiple of 16 bytes where it is made here."""
        if x is None or self.length == self.inputs:
            return x
        rows = torch.zeros(*x.shape[:2], self.length + -self.length % 8, dtype=dtype, device=x.device)
        rows[..., : self.before] = x[..., self.inputs - self.before :]
        rows[..., self.before : self.before + self.inputs] = x
        return rows[..., : self.length]

    def inward_back(self, d: Gate) -> Gate:
        """The gradient of u or pregate from that of its rows."""
        if d is None or self.length == self.inputs:
            return d
        inner = d[..., self.before : self.before + self.inputs]
        return inner + pad(d[..., : self.before], (self.inputs - self.before, 0)) if self.before else inner

    def outward(self, x: Gate, dtype: torch.dtype) -> Gate:
        """postgate or dy as rows, zero where nothing is kept."""
        if x is None or self.length == self.outputs:
            return x
        behind = self.length - self.first - self.outputs
        return pad(x.to(dtype), (self.first, behind + -self.length % 8))[..., : self.length]

    def outward_back(self, y: Gate) -> Gate:
        """The outputs, or the gradient of postgate, from the rows'."""
        return y if y is None or self.length == self.outputs else y[..., self.first : self.first + self.outputs]


def form_of(mode: str, length: int, taps: int, led: bool = False) -> Form:
    """The rows of a mode, u of `length` samples, k of `taps`; led: rows that take taps before lag 0, if there are."""
    if mode == "full":
        return Form(length + taps - 1, length, length + taps - 1, taps)
    if mode == "two_sided":
        centre = (taps - 1) // 2
        ahead = min(centre, length - 1)
        last, skipped = min(taps, centre + length), centre - ahead
        if led and fft_size(length) <= ONE_LAUNCH:
            return Form(length, length, length, last, k0=skipped, lead=ahead)
        # Whole pieces of 16 bytes.
        whole = length + ahead + (-(length + ahead) % 8 if ahead else 0)
        return Form(whole, length, length, last, k0=skipped, first=ahead, lag0=ahead)
    used = min(taps, length)
    if mode == "causal":
        return Form(length, length, length, used)
    folded = length if taps > length else 0
    if length >= LEAST and length & (length - 1) == 0:
        return Form(length, length, length, used, alias=folded, circular=True)
    return Form(length + used - 1, length, length, used, before=used - 1, first=used - 1, alias=folded)


def convolve(
    run: Convolve, form: Form, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, dtype: torch.dtype
) -> Tensor:
    """The output of a call, by `run` on its rows in a dtype."""
    taps, shared = form.filters(k, skip, u.shape[1])
    rows = form.inward(u, dtype), form.inward(pregate, dtype), form.outward(postgate, dtype)
    y = form.outward_back(run(rows[0], taps, rows[1], rows[2], shared, form.circular, form.lead))  # type: ignore[arg-type]
    assert y is not None
    return y


def differentiate(
    run: Differentiate,
    form: Form,
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    dtype: torch.dtype,
) -> Gradients:
    """The gradients of a call, by `run` on its rows in a dtype."""
    # Where gradients of samples that stand twice in a row are added, they are not rounded before.
    dtype = torch.float32 if form.before else dtype
    taps, shared = form.filters(k, skip, u.shape[1])
    given = form.inward(u, dtype), taps, form.inward(pregate, dtype), form.outward(postgate, dtype), shared
    du, dk, dpre, dpost, dskip = run(form.outward(dy, dtype), *given, form.circular, form.lead)  # type: ignore[arg-type]
    dk, dskip = form.filters_back(dk, dskip, k.shape[0], k.shape[1], skip is not None)
    back = form.inward_back(du), dk, form.inward_back(dpre), form.outward_back(dpost), dskip
    return back  # type: ignore[return-value]
