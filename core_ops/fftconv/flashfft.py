"""impl="flashfftconv": the package of that name, where it is importable, with its limits as errors.

Shapes: u, gates (B, H, L); k (H, L).
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .call import Call, unavailable_fp16x, unavailable_transform

Gate = Tensor | None
# FFT sizes that it has, powers of two; beyond CHANNELS_FROM the channels come in sixteens.
SMALLEST, LARGEST, CHANNELS_FROM = 256, 1 << 22, 1 << 15


def fft_size(call: Call) -> int:
    """Its `seqlen`: L where the convolution is circular, else the power of two that holds 2 L."""
    if call.mode == "circular":
        return call.length
    return max(SMALLEST, 1 << (2 * call.length - 1).bit_length())


def refuses(call: Call) -> str | None:
    """Why the package cannot run a call; None where it can."""
    if find_spec("flashfftconv") is None:
        return "the package flashfftconv is not importable; install it from its repository, or take impl='auto'."
    size = fft_size(call)
    limits = (
        (call.device == "cuda", f"u is on {call.device}; it needs a GPU."),
        (call.dtype in (torch.float16, torch.bfloat16), f"u is {call.dtype}; it takes float16 and bfloat16."),
        (not call.double, "float64 is not computed; cast k to float32."),
        (call.mode in ("causal", "circular"), f"mode={call.mode!r}; it has causal and circular."),
        (not call.packed, "seq_idx is not known to it."),
        (not call.skip, "it has no skip; add skip * (pregate * u) yourself."),
        (call.gates in (0, 2), "it takes both gates or neither."),
        (call.groups == call.channels, f"k has {call.groups} filters for {call.channels} channels; it needs (H, L)."),
        (call.taps == call.length, f"k has {call.taps} taps; it needs exactly L={call.length}."),
        (size & (size - 1) == 0, f"L={call.length} is no power of two, which its circular mode needs."),
        (SMALLEST <= size <= LARGEST, f"L={call.length} needs an FFT of {size}; it has {SMALLEST} to {LARGEST}."),
        (call.length % (4 if size in (512, 2048) else 2) == 0, f"L={call.length}; it needs an even L, a multiple of 4 "
         "with FFTs of 512 and 2,048."),
        (size <= CHANNELS_FROM or call.channels % 16 == 0, f"H={call.channels}; with FFTs beyond {CHANNELS_FROM} it "
         "needs a multiple of 16."),
    )  # fmt: skip
    wrong = next((f"{reason} Or take impl='auto'." for holds, reason in limits if not holds), None)
    return wrong or unavailable_transform(call) or unavailable_fp16x(call)


@cache
def module(size: int, dtype: torch.dtype, index: int) -> Any:
    """Its module, which holds the DFT matrices of one size."""
    from flashfftconv import FlashFFTConv

    # In eval mode it keeps nothing for a backward.
    return FlashFFTConv(size, dtype=dtype).to(torch.device("cuda", index)).train()


def run_flashfftconv(
    call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate
) -> Tensor:
    """A checked call by the package; what is strided is copied, since it takes contiguous tensors only."""

    def plain(x: Gate) -> Gate:
        return x if x is None else (x.transpose(1, 2) if call.blh else x).to(call.dtype).contiguous()

    v = plain(u)
    assert v is not None
    conv = module(fft_size(call), call.dtype, u.device.index or 0)
    given = () if pregate is None else (plain(pregate), plain(postgate))
    y: Tensor = conv(v, k.float().contiguous(), *given)
    return y.transpose(1, 2).contiguous() if call.blh else y
