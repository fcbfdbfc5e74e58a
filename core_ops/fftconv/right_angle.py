"""The right-angle transform: a real product of period 2N, with sign, from one complex FFT of length N.

Real x of at most 2N samples is folded into z[n] = x[n] + i x[N + n], and z is multiplied by w[n] = exp(i pi n / (2N)),
w^N = i: FFT(w z) evaluates the polynomial x at N roots of -1 = w^(2N), so products of spectra are products modulo
X^(2N) + 1, and conj(w) IFFT(.) gives y[n] + i y[N + n]. README.md has the derivation.

A row is transformed as the columns and rows of an N1 x N2 matrix (four steps), whose blocks stay in a core's cache.
Spectra carry no scale, the inverse divides by N; a spectrum is an array (k1, k2), never reordered.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .crew import Each, Lane

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
# Columns transformed together: 64 complex columns of 1,024 rows are half a megabyte.
BLOCK = 64
# Complex elements between the rows of a block, so that a column is not a power of two apart in a cache.
PAD = 8


def unit(angle: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(i angle), computed in float64, in the complex dtype of `dtype`."""
    return torch.polar(torch.ones_like(angle), angle).to(COMPLEX[dtype])


class RightAngle:
    """One row of N = N1 N2 complex points, n = n1 N2 + n2, k = k1 + N1 k2.

    Columns (FFT over n1), twiddle, rows (FFT over n2); the inverse undoes them in the opposite order, so nothing is
    reordered. Intermediates lie as blocks of columns, so every pass reads contiguous memory.

    Args:
        size: N, a multiple of BLOCK**2. dtype: torch.float32 or torch.float64.
    """

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.n1, self.n2 = split(size)
        n1, n2 = (torch.arange(n, dtype=torch.float64) for n in (self.n1, self.n2))
        self.weight = unit(n1 * (math.pi / (2 * self.n1)), dtype)[:, None]
        self.unweight = self.weight.conj().resolve_conj().view(1, -1) / size
        # The weight of n2 rides on the twiddle of (n2, k1).
        angle = n2[:, None] * (math.pi / (2 * size)) - (2 * math.pi / size) * (n2[:, None] * n1)
        self.twiddle = unit(angle, dtype)
        self.untwiddle = self.twiddle.conj().T.resolve_conj().contiguous()

    def between(self, lane: Lane, name: str, blocks: int, rows: int) -> Tensor:
        """A buffer of `blocks` blocks of `rows` rows of BLOCK columns."""
        return lane.empty(name, (blocks, rows, BLOCK + PAD), COMPLEX[self.dtype])[..., :BLOCK]

    def forward(self, x: Tensor, lane: Lane, each: Each, take: Callable[[int, Tensor], None]) -> None:
        """Transform a real row; take(i, z) receives rows k1 in [i BLOCK, (i + 1) BLOCK) of the spectrum.

        Args:
            x: (1, N1, N2), or (2, N1, N2) where samples from N on are folded.
            lane: Owns the buffers. each: Runs the blocks. take: May keep or change the rows it receives.
        """
        n1, n2 = self.n1, self.n2
        blocks = n1 // BLOCK
        turned = self.between(lane, "turned", blocks, n2)

        def columns(j: int, worker: Lane) -> None:
            at = slice(j * BLOCK, (j + 1) * BLOCK)
            z = self.between(worker, "columns", 1, n1)[0]
            if x.shape[0] == 1:
                torch.mul(x[0, :, at], self.weight, out=z)
            else:
                torch.complex(x[0, :, at], x[1, :, at], out=z).mul_(self.weight)
            spectra = torch.fft.fft(z, dim=0).T.view(BLOCK, blocks, BLOCK)
            torch.mul(spectra, self.twiddle[at].view(BLOCK, blocks, BLOCK), out=turned[:, at].transpose(0, 1))

        each(n2 // BLOCK, columns)
        each(blocks, lambda i, worker: take(i, torch.fft.fft(turned[i], dim=0).T))

    def returning(self, lane: Lane) -> Tensor:
        """The buffer between the two halves of the inverse: made before workers share it."""
        return self.between(lane, "back", self.n2 // BLOCK, self.n1)

    def untwist(self, i: int, spectrum: Tensor, back: Tensor) -> None:
        """Begin the inverse: rows [i BLOCK, (i + 1) BLOCK) of a spectrum, (BLOCK, N2), to (k1, n2) in `back`."""
        blocks, at = self.n2 // BLOCK, slice(i * BLOCK, (i + 1) * BLOCK)
        rows = torch.fft.ifft(spectrum, dim=1, norm="forward").view(BLOCK, blocks, BLOCK)
        torch.mul(rows, self.untwiddle[at].view(BLOCK, blocks, BLOCK), out=back[:, at].transpose(0, 1))

    def inverse(self, back: Tensor, each: Each, low: Tensor | None, high: Tensor | None) -> None:
        """Finish the inverse: y[0:N] to low, y[N:2N] to high, each (N1, N2) real or None."""

        def columns(j: int, worker: Lane) -> None:
            at = slice(j * BLOCK, (j + 1) * BLOCK)
            z = torch.fft.ifft(back[j], dim=0, norm="forward").T.mul_(self.unweight)
            if low is not None:
                low[:, at] = z.real.T
            if high is not None:
                high[:, at] = z.imag.T

        each(self.n2 // BLOCK, columns)


def split(size: int) -> tuple[int, int]:
    """N1, N2 of a transform: multiples of BLOCK, as square as the factors allow, N2 a power of two."""
    n2 = BLOCK
    while n2 * n2 < size and size % (2 * n2 * BLOCK) == 0:
        n2 *= 2
    return size // n2, n2


@functools.lru_cache(maxsize=2)
def right_angle(size: int, dtype: torch.dtype) -> RightAngle:
    """A RightAngle, its tables (16 N bytes in fp32) kept for the next call."""
    with torch.inference_mode(False), torch.no_grad():
        return RightAngle(size, dtype)
