"""RTF: a rational transfer function for each channel as a layer.

Shapes: B batch, H channels, L length, N order, S systems (denominators), W directions (1, or 2 when bidirectional).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import ShapeError
from ..fftconv import fftconv
from .convert import rational_to_companion
from .op import companion_step, rtf_kernel
from .rational import aliased_kernel
from .stability import Certificate, certify, poles

Layout = Literal["bhl", "blh"]
Init = Literal["zeros", "montel"]
Constraint = Literal["none", "l1_montel"]
SMALL = 1e-6


class RTF(nn.Module):
    """y = conv(u, k), k the terms of h0 + num(z) / (1 + den(z)); bidirectional: plus a second one backwards in time.

    y[t] = sum_{s <= t} k[t - s] u[s], and bidirectional + sum_{s > t} k'[s - t - 1] u[s].

    Args:
        channels: H.
        order: N, the number of poles.
        systems: S denominators, dividing H, each shared by H / S neighbours; H when absent.
        init: "zeros" starts at y = h0 u; "montel" draws num and den from U(-1/N, 1/N), so sum |den| <= 1: stable.
        constraint: "l1_montel" divides den by sum |den| + |slack| + 1e-6, slack a parameter of each denominator and
            direction: all poles strictly inside the unit circle, while training too. Works in both directions.
        bidirectional: Whether a second system reads the future.
        aliased: The period that official weights were trained with (`trunc_len`, plus 1 when odd): taps are then
            sum_m k[t + m period], as there. None gives the terms themselves.
        layout: "bhl" or "blh", of u and y.
    Complexity: O(B H L log L) a call, for any N; a step O(B H N).
    Source: Parnichkun et al. 2024, "State-Free Inference of State-Space Models", arXiv:2405.06147.
    """

    def __init__(
        self,
        channels: int,
        order: int,
        *,
        systems: int | None = None,
        init: Init = "zeros",
        constraint: Constraint = "none",
        bidirectional: bool = False,
        aliased: int | None = None,
        layout: Layout = "bhl",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        systems = channels if systems is None else systems
        if min(channels, order, systems) < 1 or channels % systems:
            raise ShapeError(
                f"RTF: channels={channels}, order={order}, systems={systems}; needed: all at least 1, "
                "systems dividing channels."
            )
        for name, value, known in (
            ("init", init, ("zeros", "montel")),
            ("constraint", constraint, ("none", "l1_montel")),
        ):
            if value not in known:
                raise ValueError(f"RTF: {name}={value!r}; accepted: {', '.join(map(repr, known))}.")
        self.channels, self.order, self.init = channels, order, init
        self.bidirectional, self.aliased, self.layout = bidirectional, aliased, layout

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(1 + bidirectional, *shape, device=device, dtype=dtype))

        self.den, self.num, self.h0 = new(systems, order), new(channels, order), new(channels)
        self.slack = new(systems) if constraint == "l1_montel" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """num and den by `init`, h0 standard normal, slack uniform in (0, 1)."""
        bound = 1 / self.order if self.init == "montel" else 0.0
        nn.init.uniform_(self.den, -bound, bound)
        nn.init.uniform_(self.num, -bound, bound)
        nn.init.normal_(self.h0)
        if self.slack is not None:
            nn.init.uniform_(self.slack)

    def denominators(self) -> Tensor:
        """den under the constraint, (W, S, N)."""
        if self.slack is None:
            return self.den
        return self.den / (self.den.abs().sum(-1) + self.slack.abs() + SMALL)[..., None]

    def kernel(self, length: int) -> Tensor:
        """Impulse responses (W, H, length)."""
        den = self.denominators().repeat_interleave(self.channels // self.den.shape[1], 1)
        if self.aliased is None:
            return rtf_kernel(self.num, den, self.h0, length)
        return aliased_kernel(self.num, den, self.h0, length, self.aliased)

    def forward(self, u: Tensor) -> Tensor:
        """y of the shape and dtype of u."""
        time = 1 if self.layout == "blh" else 2
        kernels = self.kernel(u.shape[time])
        y = fftconv(u, kernels[0], layout=self.layout)
        if self.bidirectional:
            back = fftconv(u.flip(time), kernels[1], layout=self.layout).flip(time)
            after = back.narrow(time, 1, u.shape[time] - 1)
            y = y + pad(after, (0, 0, 0, 1) if self.layout == "blh" else (0, 1))
        return y

    def initial_state(self, batch: int) -> Tensor:
        """Zeros (batch, H, N)."""
        return self.num.new_zeros(batch, self.channels, self.order)

    def step(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, H) and the new state of one input u (B, H): y = h0 u + c^T state.

        Raises: ShapeError: a bidirectional layer has no recurrence, nor have aliased taps.
        """
        if self.bidirectional or self.aliased is not None:
            raise ShapeError("RTF.step: bidirectional and aliased layers read the future; build one without either.")
        den = self.denominators().repeat_interleave(self.channels // self.den.shape[1], 1)
        a, b, c = rational_to_companion(self.num[0], den[0])
        y = state[..., -1] + self.h0[0] * u
        return y, companion_step(state, u, a, b, c)[1]

    def poles(self) -> Tensor:
        """(W, S, N, 2), largest modulus first."""
        return poles(-self.denominators().flip(-1))

    def certify(self, radius: float = 1.0) -> Certificate:
        """What is proven about the poles of each denominator."""
        return certify(-self.denominators().flip(-1), radius)

    @torch.no_grad()
    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Takes the weights of the official RTF layer: `ab`, `h_0` and, with the constraint, `scalar`.

        Raises: KeyError: one is missing. RuntimeError: a shape does not fit.
        """
        rows = self.den.shape[0] * self.den.shape[1]
        self.den.copy_(state["ab"][:rows].reshape(self.den.shape))
        self.num.copy_(state["ab"][rows:].reshape(self.num.shape))
        self.h0.copy_(state["h_0"].reshape(self.h0.shape))
        if self.slack is not None:
            self.slack.copy_(state["scalar"].reshape(self.slack.shape))

    def extra_repr(self) -> str:
        """Sizes."""
        return (
            f"channels={self.channels}, order={self.order}, systems={self.den.shape[1]}, "
            f"bidirectional={self.bidirectional}"
        )
