"""CompanionSSM: a companion system for each channel as a layer.

Shapes: B batch, H channels, L length, K kernels, d states.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..fftconv import fftconv
from .op import companion_kernel, companion_scan, companion_step
from .stability import Certificate, certify, poles

Layout = Literal["bhl", "blh"]
# Norms below this do not divide.
LEAST_NORM = 1e-4


class CompanionSSM(nn.Module):
    """y = causal convolution of u with k[l] = c^T A^l b, plus skip u; A has the normalised a as its last column.

    Args:
        channels: H.
        states: d.
        kernels: K systems, dividing H; channel h uses system h // (H / K). H when absent.
        norm: 1 divides a by its l1 norm, which proves that no pole leaves the unit circle; 2 by its l2 norm; 0 not.
        skip: Whether there is a skip for each channel.
        layout: "bhl" or "blh", of u and y.
    Complexity: O(B H L log L) a call; a step O(B H d).
    Source: Zhang et al. 2023, "SpaceTime", arXiv:2303.09489, section 3.
    """

    def __init__(
        self,
        channels: int,
        states: int,
        *,
        kernels: int | None = None,
        norm: Literal[0, 1, 2] = 1,
        skip: bool = True,
        layout: Layout = "bhl",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kernels = channels if kernels is None else kernels
        if min(channels, states, kernels) < 1 or channels % kernels:
            raise ShapeError(
                f"CompanionSSM: channels={channels}, states={states}, kernels={kernels}; needed: all at least 1, "
                "kernels dividing channels."
            )
        self.channels, self.states, self.norm, self.layout = channels, states, norm, layout
        self.a, self.b, self.c = (
            nn.Parameter(torch.empty(kernels, states, device=device, dtype=dtype)) for _ in range(3)
        )
        self.skip = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if skip else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Standard normal, as the paper's."""
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def coefficients(self) -> Tensor:
        """The last column of A: a, divided by its norm. (K, d)."""
        if self.norm == 0:
            return self.a
        norm: Tensor = torch.linalg.vector_norm(self.a, self.norm, dim=-1, keepdim=True)
        return self.a / norm.clamp_min(LEAST_NORM)

    def kernel(self, length: int) -> Tensor:
        """Impulse responses (K, length)."""
        return companion_kernel(self.coefficients(), self.b, self.c, length)

    def systems(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c of each channel, (H, d)."""
        each = self.channels // self.b.shape[0]
        a, b, c = (x.repeat_interleave(each, 0) for x in (self.coefficients(), self.b, self.c))
        return a, b, c

    def forward(self, u: Tensor) -> Tensor:
        """y of the shape and dtype of u."""
        return fftconv(u, self.kernel(u.shape[1 if self.layout == "blh" else 2]), skip=self.skip, layout=self.layout)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, d)."""
        return self.b.new_zeros(batch, self.channels, self.states)

    def prefill(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and the state after u, in the parallel form, from a state or from zeros."""
        v = u.transpose(1, 2) if self.layout == "blh" else u
        start = self.initial_state(u.shape[0]) if state is None else state
        y, last = companion_scan(v, *self.systems(), self.skip, start)
        return (y.transpose(1, 2) if self.layout == "blh" else y), last

    def step(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, H) and the new state of one input u (B, H)."""
        return companion_step(state, u, *self.systems(), self.skip)

    def poles(self) -> Tensor:
        """(K, d, 2), largest modulus first."""
        return poles(self.coefficients())

    def certify(self, radius: float = 1.0) -> Certificate:
        """What is proven about the poles."""
        return certify(self.coefficients(), radius)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"channels={self.channels}, states={self.states}, kernels={self.b.shape[0]}, norm={self.norm}"
