"""Random number generators of a run: seeding, and states that a checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch (all devices); call it before a module is built.

    Args:
        seed: Any integer; numpy takes its lowest 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device, *, torch_only: bool = False) -> dict[str, Any]:
    """States of the global generators, as plain values and tensors.

    Args:
        device: Device that the run computes on; a GPU's generator is included.
        torch_only: Leave out python's and numpy's, which take a hundred times longer to read and set.

    Returns:
        What set_rng_state takes.
    """
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state if torch_only else state | {"python": random.getstate(), "numpy": np.random.get_state()}


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the global generators where rng_state found them.

    Args:
        state: What rng_state returned; generators that it does not hold stay as they are.
        device: Device that the run computes on.
    """
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if "python" in state:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
