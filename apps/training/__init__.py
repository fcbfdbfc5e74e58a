"""The little that the apps share: fit, run folders, checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farfield.apps.training.atomic import atomic_write as atomic_write
    from farfield.apps.training.errors import Interrupted as Interrupted
    from farfield.apps.training.errors import UserError as UserError
    from farfield.apps.training.run_folder import RunFolder as RunFolder
    from farfield.apps.training.trainer import TrainerConfig as TrainerConfig
    from farfield.apps.training.trainer import fit as fit

# Loaded at first use: `farfield --help` must not wait for torch and Lightning.
_HOME = {
    "fit": "trainer",
    "TrainerConfig": "trainer",
    "RunFolder": "run_folder",
    "atomic_write": "atomic",
    "UserError": "errors",
    "Interrupted": "errors",
}
__all__ = ["Interrupted", "RunFolder", "TrainerConfig", "UserError", "atomic_write", "fit"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
