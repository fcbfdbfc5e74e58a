"""companion_kernel and its spectrum, rtf_kernel, companion_scan and companion_step: checks and dispatch.

Shapes: * any leading dimensions, B batch, H channels, L length, d states, N order of a rational function.
"""

from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..errors import DtypeError, ShapeError
from ..fftconv import FilterSpectrum, fftconv
from .choice import Call, all_pole, refuses_triton, taps, with_spectrum
from .custom import step_in_place
from .rational import broadcast_rows, rows_of
from .state import advance, last_state

FLOATS = (torch.float32, torch.float64)
Form = Literal["parallel", "step"]


def check_operands(name: str, length: int, **operands: Tensor) -> torch.dtype:
    """The dtype of the result: float64 where an operand is; dtypes, devices and shapes are as they must be.

    Raises: DtypeError, ShapeError.
    """
    first = next(iter(operands.values()))
    for key, x in operands.items():
        if x.dtype not in FLOATS:
            raise DtypeError(f"{name}: {key} is {x.dtype}; accepted: float32, float64. Convert it with .float().")
        if x.device != first.device:
            raise DtypeError(f"{name}: {key} is on {x.device}, others on {first.device}; move one of them.")
        if x.dim() < 1 or x.shape[-1] < 1 or x.shape[-1] != first.shape[-1]:
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in operands.items())
            raise ShapeError(f"{name}: shapes {shapes}; needed: the same last dimension, the states, at least 1.")
    if length < 1:
        raise ShapeError(f"{name}: length {length}; needed: at least 1.")
    return torch.float64 if any(x.dtype == torch.float64 for x in operands.values()) else torch.float32


def companion_kernel(
    a: Float[Tensor, "*#h d"], b: Float[Tensor, "*#h d"], c: Float[Tensor, "*#h d"], length: int, *, impl: str = "auto"
) -> Float[Tensor, "*h l"]:
    """Impulse response of a companion system, k[l] = c^T A^l b.

    A has ones below its diagonal and a as its last column: x[t+1] = A x[t] + b u[t], y[t] = c^T x[t+1].

    Args:
        a, b, c: (*, d), float32 or float64; leading dimensions broadcast.
        length: L >= 1; d may be longer.
        impl: "auto", "cuda" or "triton" (the recurrence on a GPU), "series" (FFTs, any device), "reference" (term by
            term).
    Returns: (*, L); float64 where an operand is. Computed in float64 in any case: exact also where poles lie on the
        unit circle (integrators, seasons), and for unstable ones until they overflow.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. KernelUnavailable: impl.
    Complexity: O(L log L + d log d) a row; A^L never appears.
    Source: Zhang et al. 2023, "SpaceTime", arXiv:2303.09489, section 3; README.md for the algorithm.
    """
    dtype = check_operands("companion_kernel", length, a=a, b=b, c=c)
    (a, b, c), lead = broadcast_rows(a, b, c)
    return taps(a, b, c, length, dtype, impl).reshape(*lead, length)


def companion_spectrum(
    a: Float[Tensor, "*#g d"],
    b: Float[Tensor, "*#g d"],
    c: Float[Tensor, "*#g d"],
    length: int,
    *,
    skip: Float[Tensor, " h"] | None = None,
    impl: str = "auto",
) -> FilterSpectrum:
    """The filter k[l] = c^T A^l b for causal calls of L samples, as fftconv(u, companion_spectrum(a, b, c, L)).

    On a GPU, without gradients, one launch makes the taps and their spectrum as fftconv's kernels read it; elsewhere
    this is FilterSpectrum(companion_kernel(a, b, c, length)), through which gradients flow.

    Args:
        a, b, c: (G, d), float32 or float64; G broadcasts.
        length: L >= 1, of the calls too.
        skip: (H,), G dividing H, as the calls will have it: it is a tap of the spectrum.
        impl: As of companion_kernel.
    Returns: FilterSpectrum of k (G, L). Other calls may use it as well: they transform k.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. KernelUnavailable: impl.
    Complexity: As companion_kernel, and O(L log L) a row for the spectrum.
    Source: Zhang et al. 2023, "SpaceTime", arXiv:2303.09489, section 3; README.md for the algorithm.
    """
    check_operands("companion_spectrum", length, a=a, b=b, c=c)
    rows, lead = broadcast_rows(a, b, c)
    if len(lead) != 1:
        raise ShapeError(f"companion_spectrum: leading dimensions {tuple(lead)}; needed: one, (G, d).")
    if skip is not None and skip.shape[0] % lead[0]:
        raise ShapeError(
            f"companion_spectrum: skip for {skip.shape[0]} channels, {lead[0]} systems; needed: a multiple of those."
        )
    made = with_spectrum(rows[0], rows[1], rows[2], length, skip, impl)
    return FilterSpectrum(companion_kernel(a, b, c, length, impl=impl)) if made is None else made


def rtf_kernel(
    num: Float[Tensor, "*#h n"],
    den: Float[Tensor, "*#h n"],
    h0: Float[Tensor, "*#h"] | None,
    length: int,
    *,
    impl: str = "auto",
) -> Float[Tensor, "*h l"]:
    """Impulse response of H(z) = h0 + (num[0] z + ... + num[N-1] z^N) / (1 + den[0] z + ... + den[N-1] z^N).

    k[0] = h0 and k[1:] are the first terms of the power series: nothing is aliased, for odd and even lengths alike.

    Args:
        num, den: (*, N), float32 or float64; leading dimensions broadcast. h0: (*), zero when None.
        length: L >= 1.
        impl: As of companion_kernel.
    Returns: (*, L); float64 where an operand is; computed in float64.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. KernelUnavailable: impl.
    Complexity: O(L log L) a row, for any N.
    Source: Parnichkun et al. 2024, "State-Free Inference of State-Space Models", arXiv:2405.06147, equation 4.
    """
    dtype = check_operands("rtf_kernel", length, num=num, den=den)
    (num, den), lead = rows_of(num, den)
    first = num.new_zeros(lead) if h0 is None else h0.double().expand(lead)
    k = first.reshape(-1, 1)
    if length > 1:
        rest = all_pole(num[:, : length - 1], -den, length - 1, dtype == torch.float32, impl)
        k = torch.cat([k, rest], 1)
    return k.to(dtype).reshape(*lead, length)


def companion_step(
    state: Float[Tensor, "b h d"],
    u: Float[Tensor, "b h"],
    a: Float[Tensor, "h d"],
    b: Float[Tensor, "h d"],
    c: Float[Tensor, "h d"],
    skip: Float[Tensor, " h"] | None = None,
) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b h d"]]:
    """One step of a companion system: state' = A state + b u, y = c^T state' + skip u.

    Args:
        state: (B, H, d), zeros at the start. u: (B, H). a, b, c: (H, d). skip: (H,).
    Returns: y (B, H), state' (B, H, d).
    Complexity: O(B H d).
    """
    new = pad(state[..., :-1], (1, 0)) + a * state[..., -1:] + b * u[..., None]
    y = (new * c).sum(-1)
    return (y if skip is None else y + skip * u), new


@torch.no_grad()
def companion_step_(
    state: Float[Tensor, "b h d"],
    u: Float[Tensor, "b h"],
    a: Float[Tensor, "h d"],
    b: Float[Tensor, "h d"],
    c: Float[Tensor, "h d"],
    skip: Float[Tensor, " h"] | None = None,
) -> Float[Tensor, "b h"]:
    """companion_step that overwrites the state, without gradient: on a GPU one launch, which a CUDA graph can hold.

    Args:
        state: (B, H, d), contiguous, overwritten; others as of companion_step, of one dtype.
    Returns: y (B, H).
    Raises: ShapeError: the state is not contiguous.
    """
    if not state.is_contiguous():
        raise ShapeError("companion_step_: the state is not contiguous; it is overwritten, so make it so once.")
    if refuses_triton(Call(state.device.type, state.shape[-1], 1)) is None:
        operands = [x if x is None else x.contiguous() for x in (u, a, b, c, skip)]
        y: Tensor = step_in_place(state, *operands)
        return y
    y, new = companion_step(state, u, a, b, c, skip)
    state.copy_(new)
    return y


@overload
def companion_scan(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None = ..., state: None = ..., *, form: Form = ...
) -> Tensor: ...


@overload
def companion_scan(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, state: Tensor, *, form: Form = ...
) -> tuple[Tensor, Tensor]: ...


@overload
def companion_scan(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None = ..., *, state: Tensor, form: Form = ...
) -> tuple[Tensor, Tensor]: ...


def companion_scan(
    u: Float[Tensor, "b h l"],
    a: Float[Tensor, "h d"],
    b: Float[Tensor, "h d"],
    c: Float[Tensor, "h d"],
    skip: Float[Tensor, " h"] | None = None,
    state: Float[Tensor, "b h d"] | None = None,
    *,
    form: Form = "parallel",
) -> Tensor | tuple[Tensor, Tensor]:
    """A companion system over a sequence: x[t+1] = A x[t] + b u[t], y[t] = c^T x[t+1] + skip u[t].

    Args:
        u: (B, H, L). a, b, c: (H, d). skip: (H,).
        state: x[0], (B, H, d); zeros when None.
        form: "parallel" is one long convolution, "step" the recurrence.
    Returns: y (B, H, L); with state (y, x[L]).
    Raises: ShapeError, DtypeError: what arrived, what is accepted.
    Complexity: parallel O(B H L log L), with state O(B H d (L + d)) more for x[L]; step O(B H L d).
    """
    check_operands("companion_scan", u.shape[-1], a=a, b=b, c=c)
    if form not in ("parallel", "step"):
        raise ShapeError(f"companion_scan: form={form!r}; accepted: 'parallel', 'step'.")
    x = u.new_zeros(u.shape[0], *a.shape) if state is None else state
    if form == "step":
        outputs = []
        for t in range(u.shape[-1]):
            y_t, x = companion_step(x, u[..., t], a, b, c, skip)
            outputs.append(y_t)
        y = torch.stack(outputs, -1)
        return y if state is None else (y, x)
    length = u.shape[-1]
    made = with_spectrum(a, b, c, length, skip, "auto") if u.is_cuda and not u.requires_grad else None
    y = fftconv(u, companion_kernel(a, b, c, length) if made is None else made, skip=skip)
    if state is None:
        return y
    free = companion_kernel(a, advance(state, a, 1), c, length)
    return y + free.to(y.dtype), last_state(u, a, b) + advance(state, a, length)
