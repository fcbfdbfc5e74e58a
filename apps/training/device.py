"""Which device and which precision a run takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from farfield.apps.training.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str = "auto") -> torch.device:
    """The device that a name means on this machine.

    Args:
        device: auto (a GPU where there is one), cpu or cuda.

    Returns:
        cpu or cuda.

    Raises:
        UserError: The name is unknown, or cuda is asked for where torch sees no GPU.
    """
    if device not in get_args(Device):
        raise UserError(f"device={device!r} is unknown; accepted: auto, cpu, cuda")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = (
            "this torch was built for CPUs only" if torch.version.cuda is None else "torch sees no GPU on this machine"
        )
        raise UserError(
            f"device=cuda was asked for, but {why}; take device=auto or device=cpu, or install a CUDA torch"
        )
    return torch.device("cuda")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that is unknown or that the device cannot train in.

    Args:
        precision: fp32, bf16 or fp16.
        device: What resolve_device returned.

    Raises:
        UserError: Unknown precision, or fp16 without a GPU.
    """
    if precision not in DTYPES:
        raise UserError(f"precision={precision!r} is unknown; accepted: fp32, bf16, fp16")
    if precision == "fp16" and device.type != "cuda":
        raise UserError("precision=fp16 needs a GPU; on a CPU take precision=fp32 or precision=bf16")


def autocast_for(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass runs in the precision.

    Args:
        precision: fp32 (no autocast), bf16 or fp16.
        device: What resolve_device returned.

    Returns:
        A context manager.

    Raises:
        UserError: Unknown precision, or fp16 without a GPU.
    """
    check_precision(precision, device)
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
