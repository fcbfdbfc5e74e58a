"""The callback that makes a run repeatable, resumable and stoppable.

Order within an optimiser step: batches (accumulated), optimiser, scheduler, this callback's `on_train_batch_end`, then
validation where one is due, then this callback's `on_validation_end`. A step's checkpoint is written in the last of the
two that runs, so that it holds everything the step did; Lightning resumes from both. The generators are set at each
batch's start to where the batch before left them (python's and numpy's only after a validation or a checkpoint):
validation, data loaders and writing never move the training's numbers.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from farfield.apps.training.atomic import TEMPORARY
from farfield.apps.training.checkpoint import ABOUT
from farfield.apps.training.errors import UserError
from farfield.apps.training.manifest import About, checkpoint_folders, folder_name
from farfield.apps.training.rng import rng_state, seed_all, set_rng_state
from farfield.apps.training.run_folder import RunFolder, ranked

if TYPE_CHECKING:
    from farfield.apps.training.run_logger import RunLogger
    from farfield.apps.training.trainer import TrainerConfig

BUDGET_SPENT = -1
_RNG = "farfield_rng"


class Stop(Exception):
    """Ends training between two batches, after the checkpoint of the step was written."""


class Keeper(Callback):
    """Generators, metrics, checkpoints, early stopping, budget, signals and the check for NaN.

    Args:
        config: The run's trainer config.
        folder: The run's folder.
        logger: Where metrics go.
        stop_signal: Returns the signal that came, or 0.
        install_signals: Takes the signal handlers back from Lightning.
        shown: Numbers for the progress bar; updated at every logged step.
        deadline: time.monotonic() at which the budget is spent; None without one.
    """

    def __init__(
        self,
        config: TrainerConfig,
        folder: RunFolder,
        logger: RunLogger,
        stop_signal: Callable[[], int],
        install_signals: Callable[[], None],
        shown: dict[str, float],
        deadline: float | None,
    ) -> None:
        self._config, self._folder, self._logger = config, folder, logger
        self._stop_signal, self._install_signals = stop_signal, install_signals
        self._shown, self._deadline = shown, deadline
        self.stop_reason = 0
        self.saved_step = 0
        self._best: float | None = None
        self._waited = 0
        self._stopped: str | None = None
        self._about: About | None = None
        self._rng: dict[str, Any] | None = None
        self._metrics: dict[str, torch.Tensor] = {}
        self._step = 0
        self._lr = math.nan
        self._parts: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []
        self._rate = _Rate()

    # What a checkpoint holds of this callback.

    def state_dict(self) -> dict[str, Any]:
        """Early stopping, and the metrics that a plateau scheduler asks for right after resuming."""
        return {"best": self._best, "waited": self._waited, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint left off."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]
        self._metrics = state_dict["metrics"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the generators of every process, and what the manifest says."""
        states: list[Any] = [self._rng]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, self._rng)
        checkpoint[_RNG] = states
        if self._about is not None:
            checkpoint[ABOUT] = dict(vars(self._about))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find this process's generators."""
        states = checkpoint.get(_RNG, [])
        if len(states) == trainer.world_size:
            self._rng = states[trainer.global_rank]

    # Hooks, in the order in which they run.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed, or go on from the checkpoint's generators."""
        self._install_signals()
        device = trainer.strategy.root_device
        self._step = self.saved_step = trainer.global_step
        if self._rng is None:
            # Processes draw different dropout masks; a changed number of them starts new streams at this step.
            seed_all(self._config.seed + 7919 * trainer.global_rank + 104729 * self._step)
            self._rng = rng_state(device)
        trainer.callback_metrics.update({name: value.to(device) for name, value in self._metrics.items()})
        self._logger.open(trainer)
        self._rate.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here if a stop was asked for; else set the generators."""
        if self.stop_reason:
            raise Stop
        assert self._rng is not None
        set_rng_state(self._rng, trainer.strategy.root_device)
        # The rate that this step takes: by the step's end the scheduler has moved on.
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the optimiser's step: log, look for NaN and for wishes to stop, write what is due."""
        self._rng = rng_state(trainer.strategy.root_device, torch_only=True)
        self._rate.count(batch)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # Lightning divides by the number of accumulated batches: the parts add up to their mean.
            self._parts.append(loss.detach())
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._parts:
            self._losses.append(torch.stack(self._parts).sum())
            self._parts = []
        validates = self._validates(trainer)
        ends = self._step >= self._config.max_steps
        due = ends or self._step % self._config.checkpoint_every == 0
        logs = ends or self._step == 1 or self._step % self._config.log_every == 0
        # Reading a GPU's loss waits for the GPU, and asking the other processes waits for them: now and then only.
        if logs or due or validates or (trainer.world_size == 1 and trainer.strategy.root_device.type == "cpu"):
            self._look(trainer, logs)
        elif trainer.world_size == 1:
            self.stop_reason = self._wish()
        if validates or due or self.stop_reason:
            self._rng = rng_state(trainer.strategy.root_device)
        if not validates and (due or self.stop_reason):
            if self._step % self._config.log_every == 0:
                # Lightning logs the module's metrics after this hook: a kill in between must not lose them.
                names = trainer.logged_metrics.keys() - self._logger.validation_names
                self._logger.log_metrics({name: float(trainer.logged_metrics[name]) for name in sorted(names)})
            self._save(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation does not count in the training's rate."""
        self._rate.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the monitored metric, stop early if it no longer improves, write what is due."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._metrics = {name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()}
        improved, value = self._judge(trainer)
        if not self.stop_reason:
            self.stop_reason = self._agree(trainer, self._wish(), False)[0]
        ends = self._step >= self._config.max_steps or self._stopped is not None
        if ends or improved or self.stop_reason or self._step % self._config.checkpoint_every == 0:
            self._save(trainer, pl_module, value)
        self._rate.proceed()

    # Parts of these hooks.

    def _validates(self, trainer: Trainer) -> bool:
        every = self._config.val_every
        return bool(every and trainer.enable_validation and self._step % every == 0)

    def _wish(self) -> int:
        if signum := self._stop_signal():
            return signum
        return BUDGET_SPENT if self._deadline is not None and time.monotonic() >= self._deadline else 0

    def _look(self, trainer: Trainer, logs: bool) -> None:
        losses = torch.stack(self._losses).tolist() if self._losses else []
        first = self._step - len(losses) + 1
        self._losses = []
        bad = next((first + i for i, loss in enumerate(losses) if not math.isfinite(loss)), 0)
        self.stop_reason, anywhere = self._agree(trainer, self._wish(), bool(bad))
        if anywhere:
            value = losses[bad - first] if bad else math.nan
            raise UserError(self._diverged(f"the loss became {value} at step {bad or self._step}"))
        if logs and losses:
            self._log(trainer, losses[-1])

    def _agree(self, trainer: Trainer, wish: int, bad: bool) -> tuple[int, bool]:
        if trainer.world_size == 1:
            return wish, bad
        # Signals have positive numbers, a spent budget -1: any wish of any process counts, a signal's first.
        flags = torch.tensor([max(wish, 0), int(wish < 0), int(bad)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        signum, budget, anywhere = flags.tolist()
        return signum or (BUDGET_SPENT if budget else 0), bool(anywhere)

    def _log(self, trainer: Trainer, loss: float) -> None:
        steps, units = self._rate.read(self._step)
        value = trainer.strategy.reduce(torch.tensor(loss, device=trainer.strategy.root_device), reduce_op="mean")
        metrics = {"train/loss": float(value), "lr": self._lr}
        metrics |= {"steps/s": steps} if steps else {}
        metrics |= {f"{self._config.unit}/s": units * trainer.world_size} if units else {}
        self._shown.clear()
        self._shown.update({"loss" if name == "train/loss" else name: v for name, v in metrics.items()})
        self._logger.log_metrics(metrics)

    def _judge(self, trainer: Trainer) -> tuple[bool, float | None]:
        name, patience = self._config.monitor, self._config.patience
        if name is None:
            return False, None
        # The first process judges for all: a metric may have been logged there only.
        value, logged = trainer.strategy.broadcast(
            (float(trainer.callback_metrics.get(name, math.nan)), sorted(trainer.callback_metrics))
        )
        if name not in logged:
            raise UserError(
                f"monitor={name} was not logged by the validation; logged: {', '.join(logged) or 'nothing'}"
            )
        sign = 1 if self._config.mode == "min" else -1
        improved = math.isfinite(value) and (self._best is None or sign * value < sign * self._best)
        if improved:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if patience and self._waited >= patience:
            self._stopped = f"{name} did not improve in {self._waited} validations"
            trainer.should_stop = True
        return improved, value if math.isfinite(value) else None

    def _save(self, trainer: Trainer, module: LightningModule, value: float | None = None) -> None:
        self._rate.pause()
        sick = [~torch.isfinite(p.detach()).all() for p in module.parameters() if p.requires_grad]
        if sick and bool(torch.stack(sick).any()):
            raise UserError(self._diverged(f"weights became infinite or NaN at or before step {self._step}"))
        # Metrics first: a checkpoint must not know of steps that the metrics do not.
        self._logger.flush()
        self._about = About(
            step=self._step, monitor=self._config.monitor, mode=self._config.mode, value=value, stopped=self._stopped
        )
        trainer.save_checkpoint(self._folder.checkpoints / folder_name(self._step))
        self.saved_step = self._step
        if trainer.is_global_zero:
            prune(self._folder.checkpoints, self._config.keep_last)
        self._rate.proceed()

    def _diverged(self, what: str) -> str:
        config = self._config
        tries = ["a lower learning rate or a longer warmup"]
        tries += [] if config.gradient_clip else ["gradient_clip=1.0"]
        tries += ["precision=bf16 or fp32"] if config.precision == "fp16" else []
        tries += ["a look at the data of that step"]
        good = self._folder.last_checkpoint()
        kept = f"the last good checkpoint is kept: {good}" if good else "no checkpoint had been written yet"
        return f"{what}; {kept}. Try {', '.join(tries[:-1])}, or {tries[-1]}"


def prune(checkpoints: Path, keep_last: int) -> None:
    """Remove all checkpoints but the newest ones and the best one.

    Args:
        checkpoints: Folder that holds them.
        keep_last: How many of the newest stay.
    """
    folders = checkpoint_folders(checkpoints)
    for folder in set(folders) - set(folders[-keep_last:]) - set(ranked(checkpoints)[:1]):
        # Half-removed must not look half-written.
        doomed = folder.with_name(f"{TEMPORARY}{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


class _Rate:
    """Steps and units a second of training alone: validation and writing are left out."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._began, self._aside, self._paused = time.monotonic(), 0.0, 0.0
        self._units, self._step = 0, -1

    def count(self, batch: Any) -> None:
        units = batch.get("n_units", 0) if isinstance(batch, dict) else getattr(batch, "n_units", 0)
        self._units += int(units)

    def pause(self) -> None:
        self._paused = self._paused or time.monotonic()

    def proceed(self) -> None:
        if self._paused:
            self._aside += time.monotonic() - self._paused
            self._paused = 0.0

    def read(self, step: int) -> tuple[float, float]:
        now = time.monotonic()
        seconds = max(now - self._began - self._aside, 1e-9)
        steps = (step - self._step) / seconds if self._step >= 0 else 0.0
        rates = steps, self._units / seconds
        self._began, self._aside, self._units, self._step = now, 0.0, 0, step
        return rates
