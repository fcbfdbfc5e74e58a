"""FFTConv: a long filter as a module, its spectrum kept for inference, and its streaming state.

Shapes: u (B, H, L) or (B, L, H), k (G, Lk), skip (H,); a step's u (B, H).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from .call import Layout, Precision
from .custom import conv
from .modes import Mode
from .op import fftconv
from .spectrum import FilterSpectrum

# Steps between two looks back at the whole history.
BLOCK = 256


@dataclass
class StreamState:
    """What a step of FFTConv knows of the past; changed in place by step.

    Args:
        history: Gated inputs before the block (B, H, Lk - 1), latest last.
        ahead: What the history adds to the outputs of this block (B, H, BLOCK). block: This block's gated inputs.
        filled: How many inputs the block holds.
    """

    history: Tensor
    ahead: Tensor
    block: Tensor
    filled: int


class FFTConv(nn.Module):
    """fftconv with a filter and skip of its own: y = postgate * (conv(pregate * u, k) + skip * (pregate * u)).

    In eval mode without gradients the filter's spectrum is kept, on a CPU and on a GPU. It is made anew when k was
    changed in place, replaced, loaded, moved or cast, and dropped by train(); only a write to k.data in eval mode goes
    unseen: call forget() after it.

    Args:
        channels: H. taps: Lk. groups: Filters, dividing H; H when absent. skip: Whether there is a skip.
        mode, precision, impl, layout: As of fftconv. cache_bytes: Largest spectrum that is kept.
    Complexity: O(B H L log L) a call; a step O(BLOCK + Lk log(Lk) / BLOCK) for each of B H, memory O(Lk) each.
    Source: Fu et al. 2023, "FlashFFTConv", arXiv:2311.05908; README.md.
    """

    def __init__(
        self,
        channels: int,
        taps: int,
        *,
        groups: int | None = None,
        skip: bool = True,
        mode: Mode = "causal",
        precision: Precision = "auto",
        impl: str = "auto",
        layout: Layout = "bhl",
        cache_bytes: int = 1 << 30,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.mode, self.precision, self.impl, self.layout = mode, precision, impl, layout
        self.cache_bytes = cache_bytes
        self.k = nn.Parameter(torch.empty(groups or channels, taps, device=device, dtype=dtype))
        self.skip = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if skip else None
        self.kept: dict[Any, Any] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Taps of variance 1 / Lk, so that white input keeps its scale; skip 1."""
        nn.init.normal_(self.k, std=self.k.shape[1] ** -0.5)
        if self.skip is not None:
            nn.init.ones_(self.skip)

    def forward(
        self, u: Tensor, *, pregate: Tensor | None = None, postgate: Tensor | None = None, seq_idx: Tensor | None = None
    ) -> Tensor:
        """fftconv(u, self.k, ...); see there.

        Args:
            u: (B, H, L) or (B, L, H). pregate: As u. postgate: As the output. seq_idx: (B, L).
        Returns: The output in u's dtype and layout.
        """
        k: Tensor | FilterSpectrum = self.k
        if not (self.training or torch.compiler.is_compiling()):
            k = FilterSpectrum(self.k, cache_bytes=self.cache_bytes, kept=self.kept)
        return fftconv(
            u, k, mode=self.mode, pregate=pregate, postgate=postgate, skip=self.skip, seq_idx=seq_idx,
            precision=self.precision, impl=self.impl, layout=self.layout,
        )  # fmt: skip

    def forget(self) -> None:
        """Drop the kept spectrum."""
        self.kept = {}

    def train(self, mode: bool = True) -> "FFTConv":
        """As nn.Module.train; drops the kept spectrum."""
        self.forget()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FFTConv":
        self.forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Without the kept spectrum."""
        return self.__dict__ | {"kept": {}}

    @torch.no_grad()
    def prefill(
        self, u: Tensor, *, pregate: Tensor | None = None, postgate: Tensor | None = None
    ) -> tuple[Tensor, StreamState]:
        """The outputs of a prompt, and the state from which step goes on.

        Args:
            u: (B, H, L) or (B, L, H). pregate, postgate: As u.
        Returns: The output as of forward, and the state.
        Raises: ShapeError: the mode is not causal.
        Complexity: that of forward.
        """
        if self.mode != "causal":
            raise ShapeError(f"FFTConv: prefill and step need mode='causal', this module has {self.mode!r}.")
        y = self(u, pregate=pregate, postgate=postgate)
        dtype = torch.float64 if torch.float64 in (u.dtype, self.k.dtype) else torch.float32
        past = self.k.shape[1] - 1
        v, gate = (x if x is None or self.layout == "bhl" else x.transpose(1, 2) for x in (u, pregate))
        assert v is not None
        recent = v[..., max(0, v.shape[-1] - past) :].to(dtype)
        if gate is not None:
            recent = recent * gate[..., gate.shape[-1] - recent.shape[-1] :]
        history = torch.zeros(*v.shape[:2], past, dtype=dtype, device=u.device)
        history[..., past - recent.shape[-1] :] = recent
        block = torch.zeros(*v.shape[:2], BLOCK, dtype=dtype, device=u.device)
        return y, StreamState(history, self.ahead(history), block, 0)

    @torch.no_grad()
    def step(
        self, u: Tensor, state: StreamState, *, pregate: Tensor | None = None, postgate: Tensor | None = None
    ) -> Tensor:
        """The next output, exact: the block's own taps as a sum, all older inputs from one fftconv a block.

        Args:
            u: (B, H). state: Of prefill; changed in place. pregate, postgate: As u.
        Returns: (B, H) in u's dtype.
        Complexity: O(BLOCK + Lk log(Lk) / BLOCK) for each of B H, averaged over a block.
        """
        t = state.filled
        v = u.to(state.block.dtype)
        v = v if pregate is None else v * pregate
        state.block[..., t] = v
        near = min(t + 1, self.k.shape[1])
        k = self.k[:, :near].flip(-1).to(v.dtype).repeat_interleave(u.shape[1] // self.k.shape[0], dim=0)
        y = state.ahead[..., t] + (state.block[..., t + 1 - near : t + 1] * k).sum(-1)
        if self.skip is not None:
            y = y + self.skip * v
        if postgate is not None:
            y = y * postgate
        state.filled = t + 1
        if state.filled == BLOCK:
            past = state.history.shape[-1]
            kept = torch.cat([state.history, state.block], dim=-1)
            state.history = kept[..., kept.shape[-1] - past :].contiguous()
            state.ahead = self.ahead(state.history)
            state.filled = 0
        return y.to(u.dtype)

    def ahead(self, history: Tensor) -> Tensor:
        """What the inputs so far add to the next BLOCK outputs, (B, H, BLOCK)."""
        past = history.shape[-1]
        if past == 0:
            return history.new_zeros(*history.shape[:2], BLOCK)
        double = history.dtype == torch.float64
        if history.device.type == "cpu":
            y: Tensor = conv(history, self.k, None, None, None, None, past, BLOCK, 0, False, False, double)
            return y
        padded = nn.functional.pad(history, (0, BLOCK))
        return fftconv(padded, self.k, precision="fp64" if double else "fp32")[..., past:]
