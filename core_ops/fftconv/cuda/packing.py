"""Packed sequences as rows of their own: one batch a class of lengths, so that no row sees another sequence.

Shapes: seq_idx (B, L); u, gates, dy (B, H, L); a class's rows (n, H, m).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .forms import Convolve, Differentiate, Gate, Gradients, convolve, differentiate, form_of
from .gradient_plan import leads
from .launch import built
from .plan import fft_size
from .selfcheck import RUN_ON, capability

# As in packing.cuh: warps of a block, samples of a warp.
WARPS, PIECE = 8, 4096


@dataclass(frozen=True)
class Sequences:
    """Packed sequences of like length.

    Args:
        where: (n, 4) int32, each one's row of the batch, first sample, how many, 0. length: Samples of a row, m.
    """

    where: Tensor
    length: int

    @property
    def count(self) -> int:
        """n."""
        return self.where.shape[0]

    def blocks(self, channels: int) -> int:
        """Blocks of the kernels."""
        return -(-self.count * channels * -(-self.length // PIECE) // WARPS)

    def at(self, batch: int, length: int) -> Tensor:
        """(n m,) where the rows' samples stand in (B L,), B L where they are padding."""
        batches, first, samples, _ = (x[:, None].long() for x in self.where.unbind(1))
        offset = torch.arange(self.length, device=self.where.device)
        return torch.where(offset < samples, batches * length + first + offset, batch * length).flatten()

    def gather(self, x: Tensor) -> Tensor:
        """The rows of x."""
        batch, channels, length = x.shape
        if moved_by_kernels(x):
            x = x if x.stride(2) == 1 or length == 1 else x.contiguous()
            rows = torch.empty(self.count, channels, self.length, dtype=x.dtype, device=x.device)
            built("packing.cuh", {"ITEM": x.element_size()}, x.device.index).launch(
                "gather", self.blocks(channels), 32 * WARPS, 0, x.data_ptr(), rows.data_ptr(), self.where.data_ptr(),
                x.stride(0), x.stride(1), *(np.int32(n) for n in (self.count, channels, self.length)),
            )  # fmt: skip
            return rows
        flat = pad(x.transpose(0, 1).flatten(1), (0, 1))
        chosen = flat.index_select(1, self.at(batch, length))
        return chosen.view(channels, self.count, self.length).transpose(0, 1)

    def scatter(self, rows: Tensor, x: Tensor) -> None:
        """Write the rows to where they come from, x contiguous."""
        batch, channels, length = x.shape
        if moved_by_kernels(x):
            rows = rows if rows.stride(2) == 1 or self.length == 1 else rows.contiguous()
            built("packing.cuh", {"ITEM": x.element_size()}, x.device.index).launch(
                "scatter", self.blocks(channels), 32 * WARPS, 0, x.data_ptr(), rows.data_ptr(), self.where.data_ptr(),
                x.stride(0), x.stride(1), rows.stride(0), rows.stride(1),
                *(np.int32(n) for n in (self.count, channels, self.length)),
            )  # fmt: skip
            return
        at = self.at(batch, length)
        held = at < batch * length
        flat = rows.transpose(0, 1).flatten(1)[:, held]
        x.view(batch, channels, length)[at[held] // length, :, at[held] % length] = flat.T


def moved_by_kernels(x: Tensor) -> bool:
    """Whether packing.cuh moves samples; it only does on architectures that it was run on."""
    return x.is_cuda and capability(x.device.index) in RUN_ON


def sequences(seq_idx: Tensor) -> list[Sequences]:
    """The packed sequences by the power of two that holds them; reads seq_idx on the host."""
    batch, length = seq_idx.shape
    begins = torch.ones(batch, length, dtype=torch.bool, device=seq_idx.device)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    starts = begins.flatten().nonzero().flatten().cpu().numpy()
    samples = np.diff(starts, append=batch * length)
    where = np.stack([starts // length, starts % length, samples, np.zeros_like(samples)], 1).astype(np.int32)
    # Exact: frexp(n - 1) holds how many bits n - 1 has.
    bits = np.maximum(np.frexp(samples - 1.0)[1], fft_size(1).bit_length() - 1)
    found = []
    for size in np.unique(bits):
        some = where[bits == size]
        # Rows of whole 16-byte pieces.
        most = -(-int(some[:, 2].max()) // 8) * 8
        found.append(Sequences(torch.from_numpy(some).to(seq_idx.device), most))
    return found


def together(rows: list[tuple[Sequences, Gate]], like: Tensor) -> Gate:
    """(B, H, L) of the rows of each class; None where they have none."""
    held = [(packed, y) for packed, y in rows if y is not None]
    if not held:
        return None
    out = torch.empty(like.shape, dtype=held[0][1].dtype, device=like.device)
    for packed, y in held:
        packed.scatter(y, out)
    return out


def convolve_packed(
    run: Convolve,
    mode: str,
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    seq_idx: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The output of a packed call, by `run` on the rows of each class."""
    done: list[tuple[Sequences, Gate]] = []
    for packed in sequences(seq_idx):
        v, pre, post = (None if t is None else packed.gather(t.to(dtype)) for t in (u, pregate, postgate))
        assert v is not None
        form = form_of(mode, packed.length, k.shape[1], True)
        done.append((packed, convolve(run, form, v, k, pre, post, skip, dtype)))
    y = together(done, u)
    assert y is not None
    return y


def differentiate_packed(
    run: Differentiate,
    mode: str,
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    seq_idx: Tensor,
    dtype: torch.dtype,
) -> Gradients:
    """The gradients of a packed call, by `run` on the rows of each class."""
    done: list[tuple[Sequences, Gradients]] = []
    gates, index = (pregate is not None, postgate is not None), u.device.index
    for packed in sequences(seq_idx):
        dyv, v, pre, post = (None if t is None else packed.gather(t.to(dtype)) for t in (dy, u, pregate, postgate))
        assert dyv is not None
        assert v is not None
        form = form_of(mode, packed.length, k.shape[1], leads(packed.length, dtype.itemsize, gates, index))
        done.append((packed, differentiate(run, form, dyv, v, k, pre, post, skip, dtype)))

    def placed(i: int) -> Gate:
        return together([(packed, grads[i]) for packed, grads in done], u)

    def total(i: int) -> Gate:
        sums = [d for _, grads in done if (d := grads[i]) is not None]
        return torch.stack(sums).sum(0) if sums else None

    return placed(0), total(1), placed(2), placed(3), total(4)  # type: ignore[return-value]
