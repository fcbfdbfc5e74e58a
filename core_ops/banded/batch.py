"""Batch dimensions that broadcast."""

import torch


def broadcast(*shapes: tuple[int | torch.SymInt, ...]) -> torch.Size:
    """The shape that all shapes broadcast to.

    Raises: RuntimeError: they do not.
    """
    out: torch.Size = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return out
