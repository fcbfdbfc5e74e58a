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


def rng_state(device: torch.device) -> dict[str, Any]:
    """States of the global generators, as plain values and tensors.

    Args:
        device: Device that the run computes on; a GPU's generator is included.

    Returns:
        What set_rng_state takes.
    """
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the global generators where rng_state found them.

    Args:
        state: What rng_state returned; a GPU's state is left out where the run now computes on a CPU.
        device: Device that the run computes on.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
