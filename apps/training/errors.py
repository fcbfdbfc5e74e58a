"""What a user can get wrong, and what ends a run early; the command line prints the message alone."""

from __future__ import annotations

import signal
from pathlib import Path


class UserError(ValueError):
    """A mistake of the user: the message says what came, what is accepted, what to do (exit code 2)."""


class Interrupted(RuntimeError):
    """A run that a signal stopped after a finished step and a written checkpoint (exit code 128 + signal).

    Args:
        signum: Signal that came: SIGINT (exit code 130) or SIGTERM (143).
        run_folder: Folder to resume from.
        step: Optimiser steps that the last checkpoint holds, or other units of finished work.
        unit: What step counts.
    """

    def __init__(self, signum: int, run_folder: Path, step: int, unit: str = "step") -> None:
        self.signum = signum
        self.run_folder = run_folder
        self.step = step
        name = signal.Signals(signum).name
        super().__init__(f"interrupted by {name} after {unit} {step}; continue with resume={run_folder}")

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum
