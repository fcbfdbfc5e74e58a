"""What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class ProgressBar(Callback):
    """Steps done, rate, time left and the latest numbers.

    Args:
        max_steps: Steps of the whole run.
        shown: Numbers to show beside the bar, by name; the run updates this dict.
        console: Where to write; standard error when not given.
    """

    def __init__(self, max_steps: int, shown: dict[str, float], console: Console | None = None) -> None:
        self._max_steps = max_steps
        self._shown = shown
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._line = 0.0
        self._began = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        if not trainer.is_global_zero:
            return
        self._began = (time.monotonic(), trainer.global_step)
        self._line = time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task(
                "training", total=self._max_steps, completed=trainer.global_step, note=self._note()
            )
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Move the bar, or print a line when the last one is half a minute old."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, note=self._note())
        elif trainer.is_global_zero and time.monotonic() - self._line > SECONDS_BETWEEN_LINES:
            self._line = time.monotonic()
            since, first = self._began
            per_step = (self._line - since) / max(1, trainer.global_step - first)
            left = per_step * (self._max_steps - trainer.global_step)
            self._console.print(
                f"step {trainer.global_step}/{self._max_steps}  {self._note()}  {_duration(left)} left", highlight=False
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that validation runs."""
        if self._bar is not None:
            self._bar.update(self._task, description="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training goes on."""
        if self._bar is not None:
            self._bar.update(self._task, description="training", note=self._note())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _note(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self._shown.items())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
