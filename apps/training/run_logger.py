"""What Lightning needs to write a run folder: a logger and a checkpoint plugin."""

from __future__ import annotations

import shutil
from argparse import Namespace
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from farfield.apps.training.checkpoint import read_checkpoint, write_checkpoint
from farfield.apps.training.metrics import MetricsLog
from farfield.apps.training.run_folder import RunFolder


class RunLogger(Logger):
    """Metrics to metrics.jsonl and TensorBoard, both counted in optimiser steps done.

    Args:
        folder: The run's folder.
        last_step: Step that the run goes on from; later records of an earlier session are dropped.
    """

    def __init__(self, folder: RunFolder, last_step: int) -> None:
        super().__init__()
        self._folder = folder
        self.validation_names: set[str] = set()
        self._trainer: Trainer | None = None
        self._log: MetricsLog | None = None
        self._board: SummaryWriter | None = None
        self._last_step = last_step

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self._folder.path.name

    @property
    def version(self) -> str:
        """Runs are told apart by their folder, not by a number."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._folder.path)

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def open(self, trainer: Trainer) -> None:
        """Drop what lies beyond the step that the run goes on from, and append from here."""
        self._trainer = trainer
        self._log = MetricsLog(self._folder.metrics_file, self._last_step)
        self._board = SummaryWriter(str(self._folder.tensorboard), purge_step=self._last_step + 1)

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers for the step the trainer is at, whatever `step` says."""
        if self._log is None or self._board is None or self._trainer is None:
            return
        if self._trainer.validating:
            self.validation_names |= metrics.keys()
        # Lightning's own count starts at 0 and stands still during validation: the trainer's is the one to write.
        step = self._trainer.global_step
        kept = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        self._log.log(step, kept)
        for name, value in kept.items():
            self._board.add_scalar(name, value, step)

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def flush(self) -> None:
        """Put everything logged so far on disk."""
        if self._log is not None and self._board is not None:
            self._log.flush()
            self._board.flush()

    @rank_zero_only  # type: ignore[untyped-decorator, unused-ignore]
    def finalize(self, status: str) -> None:
        """Flush and close both files."""
        if self._log is not None and self._board is not None:
            self._log.close()
            self._board.close()
            self._log = self._board = None


class FolderCheckpointIO(CheckpointIO):
    """Lets a Lightning trainer write and read our checkpoint folders."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Publish a folder at `path`; see write_checkpoint."""
        write_checkpoint(path, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a folder; Lightning moves the tensors to where they belong."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a folder."""
        shutil.rmtree(path, ignore_errors=True)
