"""Packed sequences as rows of their own: one batch a class of lengths, so that no row sees another sequence.

Shapes: seq_idx (B, L); u, gates, dy (B, H, L), read as (H, B L) with one column of zeros behind; a class (n, H, m).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .forms import Convolve, Differentiate, Gate, Gradients, convolve, differentiate, form_of
from .plan import fft_size


@dataclass(frozen=True)
class Sequences:
    """Packed sequences of like length.

    Args:
        count: How many. length: Samples of a row, at least the longest.
        at: (count length,) where each sample of the rows stands in (B L,), B L where it is padding.
    """

    count: int
    length: int
    at: Tensor

    def rows(self, x: Tensor) -> Tensor:
        """(n, H, m) of x (H, B L + 1)."""
        return x.index_select(1, self.at).view(x.shape[0], self.count, self.length).transpose(0, 1)


def sequences(seq_idx: Tensor) -> list[Sequences]:
    """The packed sequences by the power of two that holds them; reads seq_idx on the host."""
    batch, length = seq_idx.shape
    begins = torch.ones(batch, length, dtype=torch.bool, device=seq_idx.device)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    starts = begins.flatten().nonzero().flatten().cpu()
    lengths = torch.diff(starts, append=torch.tensor([batch * length]))
    sizes = [fft_size(n) for n in lengths.tolist()]
    of_size = torch.tensor(sizes)
    found = []
    for size in sorted(set(sizes)):
        first, count = starts[of_size == size], lengths[of_size == size]
        # Rows of whole 16-byte pieces.
        most = -(-int(count.max()) // 8) * 8
        offset = torch.arange(most, device=seq_idx.device)
        first, count = (x.to(seq_idx.device)[:, None] for x in (first, count))
        at = torch.where(offset < count, first + offset, batch * length)
        found.append(Sequences(at.shape[0], most, at.flatten()))
    return found


def flat(x: Gate, dtype: torch.dtype) -> Gate:
    """(H, B L + 1) of x (B, H, L), the last column zero."""
    return None if x is None else pad(x.to(dtype).transpose(0, 1).flatten(1), (0, 1))


def unflat(rows: list[tuple[Sequences, Tensor]], like: Tensor) -> Tensor:
    """The classes' rows (n, H, m) where they came from, (B, H, L)."""
    batch, channels, length = like.shape
    out = torch.empty(channels, batch * length + 1, dtype=rows[0][1].dtype, device=like.device)
    for packed, y in rows:
        out.index_copy_(1, packed.at, y.transpose(0, 1).flatten(1))
    return out[:, :-1].view(channels, batch, length).transpose(0, 1)


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
    x, p, q = (flat(t, dtype) for t in (u, pregate, postgate))
    done = []
    for packed in sequences(seq_idx):
        v, pre, post = (None if t is None else packed.rows(t) for t in (x, p, q))
        assert v is not None
        y = convolve(run, form_of(mode, packed.length, k.shape[1], True), v, k, pre, post, skip, dtype)
        done.append((packed, y))
    return unflat(done, u)


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
    dz, x, p, q = (flat(t, dtype) for t in (dy, u, pregate, postgate))
    done: list[tuple[Sequences, Gradients]] = []
    for packed in sequences(seq_idx):
        dyv, v, pre, post = (None if t is None else packed.rows(t) for t in (dz, x, p, q))
        assert dyv is not None
        assert v is not None
        form = form_of(mode, packed.length, k.shape[1])
        done.append((packed, differentiate(run, form, dyv, v, k, pre, post, skip, dtype)))

    def together(i: int) -> Gate:
        rows = [(packed, d) for packed, grads in done if (d := grads[i]) is not None]
        return unflat(rows, u) if rows else None

    def total(i: int) -> Gate:
        sums = [d for _, grads in done if (d := grads[i]) is not None]
        return torch.stack(sums).sum(0) if sums else None

    return together(0), total(1), together(2), together(3), total(4)  # type: ignore[return-value]
