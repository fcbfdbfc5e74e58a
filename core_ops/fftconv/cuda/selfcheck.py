"""Kernels on an architecture where they were never run: each is compared with torch.fft before its first use."""

import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("farfield.core_ops")
# Compute capabilities of the GPUs that the tests ran on.
RUN_ON = ((9, 0),)
# Relative L2 distance from torch.fft, by I/O dtype, beyond which a kernel is wrong.
BOUNDS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
verdicts: dict[tuple[Any, ...], bool] = {}
warned: set[int] = set()


@cache
def capability(index: int) -> tuple[int, int]:
    """Of a CUDA device."""
    return torch.cuda.get_device_capability(index)


def trusted(
    index: int,
    name: str,
    length: int,
    dtype: torch.dtype,
    gates: tuple[bool, bool],
    kind: tuple[int, ...],
    kernel: Callable[..., Any],
    composite: Callable[..., Any],
) -> bool:
    """Whether a kernel may run: its architecture is one of RUN_ON, or it agreed with torch.fft on this device.

    Args:
        index: Of the device. name: "forward" or "backward". length, dtype, gates, kind: Which kernel of it,
            kind as its last arguments: whether circular, then how many taps stand before lag 0.
        kernel, composite: Of engine.py, by the kernels and by torch.fft.
    """
    if capability(index) in RUN_ON:
        return True
    key = (index, name, length, dtype, gates, kind)
    if key not in verdicts:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            # Nothing can be compared inside a capture.
            return False
        announce(index)
        verdicts[key] = True  # the comparison itself runs the kernel
        verdicts[key] = agrees(index, name, length, dtype, gates, kind, kernel, composite)
    return verdicts[key]


def architecture(index: int) -> str:
    """As NVIDIA names it."""
    major, minor = capability(index)
    return f"sm_{major}{minor}"


def announce(index: int) -> None:
    """Say once a device that its kernels are checked."""
    if index not in warned:
        warned.add(index)
        warnings.warn(
            f"fftconv: the CUDA kernels were compiled for {architecture(index)}, but never run on it by their authors: "
            "each is compared with torch.fft before its first use.",
            stacklevel=3,
        )


def agrees(
    index: int,
    name: str,
    length: int,
    dtype: torch.dtype,
    gates: tuple[bool, bool],
    kind: tuple[int, ...],
    kernel: Callable[..., Any],
    composite: Callable[..., Any],
) -> bool:
    """Compare a small call; a kernel that fails or differs is reported, once."""
    given = example(index, length, dtype, gates)
    given = given if name == "backward" else given[1:]
    try:
        distance = max(distances(flat(kernel(*given, *kind)), flat(composite(*given, *kind))))
    # Whatever a compiler or driver raises on a machine that we never saw.
    except Exception as error:
        why = f"it raised {type(error).__name__}: {error}"
    else:
        if distance <= BOUNDS[dtype]:
            log.info(
                "fftconv: %s of %d samples on %s: %.1e from torch.fft", name, length, architecture(index), distance
            )
            return True
        why = f"it is {distance:.2g} from torch.fft (relative), accepted: {BOUNDS[dtype]:.2g}"
    warnings.warn(
        f"fftconv: the CUDA {name} kernel for {length} samples in {dtype} is not used on {architecture(index)}, "
        f"torch.fft runs instead: {why}. Please report it.",
        stacklevel=4,
    )
    return False


def example(index: int, length: int, dtype: torch.dtype, gates: tuple[bool, bool]) -> list[Any]:
    """dy, u, k, pregate, postgate, skip of two rows of two channels."""
    device = torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    dy, u, pre, post = (normal(2, 2, length).to(dtype) for _ in range(4))
    k, skip = normal(2, length) / length**0.5, normal(2)
    return [dy, u, k, pre if gates[0] else None, post if gates[1] else None, skip]


def flat(result: Any) -> list[Tensor]:
    """The tensors of an output or of gradients."""
    return [result] if isinstance(result, Tensor) else [x for x in result if x is not None]


def distances(ours: list[Tensor], theirs: list[Tensor]) -> Iterator[float]:
    """Relative L2 distances; a NaN counts as infinite."""
    for a, b in zip(ours, theirs, strict=True):
        distance = ((a.double() - b.double()).norm() / b.double().norm()).item()
        yield distance if distance == distance else float("inf")
