"""One way to train: fit(module, datamodule, TrainerConfig(...)) -> RunFolder."""

from __future__ import annotations

import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from farfield.apps.training.atomic import remove_leftovers
from farfield.apps.training.device import check_precision, resolve_device
from farfield.apps.training.errors import Interrupted, UserError
from farfield.apps.training.keeper import BUDGET_SPENT, Keeper, Stop
from farfield.apps.training.manifest import checkpoint_folders, read_about
from farfield.apps.training.progress import ProgressBar
from farfield.apps.training.quiet import quiet_lightning
from farfield.apps.training.rng import seed_all
from farfield.apps.training.run_folder import RunFolder, process_rank
from farfield.apps.training.run_logger import FolderCheckpointIO, RunLogger
from farfield.apps.training.signals import StopSignals

_LIGHTNING_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train; plain values, the same keys in every recipe's trainer/ group.

    Args:
        run_folder: Where everything is written.
        max_steps: Optimiser steps of the whole run.
        budget: Wall time of this call ("90s", "10m", "1h30m", or seconds): the step that reaches it is the last; None
            is no limit. A resumed run has it anew.
        val_every: Optimiser steps between validations; 0 or None is never.
        checkpoint_every: Optimiser steps between checkpoints; kill -9 loses at most so many.
        keep_last: Newest checkpoints that are kept, beside the best one.
        monitor: Metric logged by the validation that says which checkpoint is best; None is no best one.
        mode: min or max: which values of it are good.
        patience: Validations without a new best after which training stops; 0 or None is never.
        gradient_clip: Largest norm of the gradient; 0 or None is no clipping.
        precision: fp32, bf16 or fp16 (autocast; weights stay fp32).
        device: auto, cpu or cuda.
        devices: GPUs, or processes on a CPU; more than one train data-parallel (DDP).
        seed: Seed of the training's generators.
        resume: Go on from the newest good checkpoint in run_folder.
        accumulate: Batches an optimiser step.
        log_every: Optimiser steps between lines of metrics.
        progress: Show a progress bar.
        deterministic: Use deterministic kernels where torch has them, warn where it has none.
        unit: What a batch's `n_units` counts; metrics carry `<unit>/s`.

    Raises:
        UserError: A value that cannot be; the message says what is accepted.
    """

    run_folder: str | Path
    max_steps: int
    budget: str | float | None = None
    val_every: int | None = 0
    checkpoint_every: int = 500
    keep_last: int = 2
    monitor: str | None = None
    mode: str = "min"
    patience: int | None = 0
    gradient_clip: float | None = 0.0
    precision: str = "fp32"
    device: str = "auto"
    devices: int = 1
    seed: int = 0
    resume: bool = False
    accumulate: int = 1
    log_every: int = 10
    progress: bool = True
    deterministic: bool = True
    unit: str = "units"

    def __post_init__(self) -> None:
        for name in ("max_steps", "checkpoint_every", "keep_last", "devices", "accumulate", "log_every"):
            _check_count(name, getattr(self, name), 1)
        for name in ("val_every", "patience", "gradient_clip"):
            # YAML writes "none" as null.
            object.__setattr__(self, name, getattr(self, name) or 0)
        for name in ("val_every", "patience"):
            _check_count(name, getattr(self, name), 0)
        if self.mode not in ("min", "max"):
            raise UserError(f"mode={self.mode!r} is unknown; accepted: min, max")
        if not isinstance(self.gradient_clip, (int, float)) or not 0 <= self.gradient_clip < math.inf:
            raise UserError(f"gradient_clip={self.gradient_clip!r}: give a norm, or 0 for no clipping")
        if self.patience and not (self.monitor and self.val_every):
            raise UserError("patience needs monitor=<metric> and val_every=<steps>: it counts validations")
        parse_budget(self.budget)


def parse_budget(budget: str | float | None) -> float | None:
    """Seconds that a budget means.

    Args:
        budget: Seconds, or numbers with units s, m, h, d ("90s", "1h30m"); None is no limit.

    Returns:
        Seconds, or None.

    Raises:
        UserError: Not a positive time.
    """
    if budget is None:
        return None
    text = str(budget).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"budget={budget!r} is no time; give seconds, or a time such as 90s, 10m or 1h30m")
    return seconds


def fit(module: LightningModule, datamodule: LightningDataModule, trainer: TrainerConfig) -> RunFolder:
    """Train a module, or go on training it, and return the folder that holds the result.

    All it writes lies in the run folder: metrics.jsonl, tensorboard/, checkpoints/step-<n>/ (safetensors and JSON).
    The same seed on the same machine gives the same numbers, whether the run was interrupted or not, as long as train
    batches depend on (seed, position) alone.

    Args:
        module: Its optimiser's steps are the run's steps. Build it after `seed_all(seed)`.
        datamodule: train_dataloader yields batches without end (one that ends is started over). If it has
            `set_start_step(step)`, that is called first, with the number of batches already consumed (optimiser steps
            times `accumulate`), and its first batch is the one at that position; else that many batches are read and
            dropped. Each process of a multi-device run yields its own share: `datamodule.trainer.global_rank` of
            `world_size`. A batch's `n_units` (attribute or key), if any, is counted for the rate.
        trainer: How to train.

    Returns:
        The run folder. In a multi-device run only the first process returns; the others end here.

    Raises:
        UserError: A mistake in the config, a run folder that is in use or damaged, or a loss that became NaN.
        Interrupted: SIGINT or SIGTERM came; the step was finished and a checkpoint written.
    """
    config = trainer
    began = time.monotonic()
    device = resolve_device(config.device)
    check_precision(config.precision, device)
    _check_devices(config, device)
    folder = RunFolder(Path(config.run_folder).absolute())
    with folder.alone() if process_rank() == 0 else nullcontext():
        return _fit(module, datamodule, config, folder, device, began)


def _fit(
    module: LightningModule,
    datamodule: LightningDataModule,
    config: TrainerConfig,
    folder: RunFolder,
    device: torch.device,
    began: float,
) -> RunFolder:
    checkpoint = _prepare(folder, config, device)
    about = read_about(checkpoint) if checkpoint else None
    start = about.step if about else 0
    if about and (about.stopped or start >= config.max_steps):
        print(
            f"nothing left to train: {about.stopped or f'step {start} of {config.max_steps}'} ({folder.path})",
            file=sys.stderr,
        )
        return folder
    seconds = parse_budget(config.budget)
    signals = StopSignals()
    shown: dict[str, float] = {}
    logger = RunLogger(folder, start)
    keeper = Keeper(
        config,
        folder,
        logger,
        stop_signal=lambda: signals.received,
        install_signals=signals.install,
        shown=shown,
        deadline=None if seconds is None else began + seconds,
    )
    # The bar comes first: it is told of a stop before the checkpoint's callback raises it.
    callbacks: list[Callback] = [ProgressBar(config.max_steps, shown), keeper] if config.progress else [keeper]
    with signals, quiet_lightning(), _global_settings(config), _positioned(datamodule, start * config.accumulate):
        try:
            runner = Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=config.devices,
                strategy="ddp" if config.devices > 1 else "auto",
                precision=_LIGHTNING_PRECISION[config.precision],
                max_steps=config.max_steps,
                max_epochs=-1,
                accumulate_grad_batches=config.accumulate,
                gradient_clip_val=config.gradient_clip or None,
                val_check_interval=(config.val_every or 0) * config.accumulate or None,
                limit_val_batches=None if config.val_every else 0,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                log_every_n_steps=config.log_every,
                logger=logger,
                callbacks=callbacks,
                plugins=[FolderCheckpointIO()],
                deterministic="warn" if config.deterministic else None,
                default_root_dir=str(folder.path),
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            runner.fit(module, datamodule=datamodule, ckpt_path=str(checkpoint) if checkpoint else None)
        except (Stop, SIGTERMException):
            pass
        except (Exception, SystemExit) as error:
            # All processes agree on a user's mistake: the first one says it.
            if isinstance(error, UserError) and process_rank() > 0:
                raise SystemExit(0) from None
            # A signal also breaks what waits for data: what was asked for is the stop, not that error.
            if not signals.received or isinstance(error, UserError):
                raise
            keeper.stop_reason = signals.received
            if isinstance(error, Exception):
                warnings.warn(f"stopping met {type(error).__name__}: {error}", stacklevel=2)
    _leave_process_group()
    stopped_by = keeper.stop_reason
    if stopped_by > 0 and keeper.saved_step < config.max_steps:
        raise Interrupted(stopped_by, folder.path, keeper.saved_step)
    if stopped_by == BUDGET_SPENT:
        done = f"step {keeper.saved_step} of {config.max_steps}"
        print(f"budget of {config.budget} spent at {done}; continue with resume={folder.path}", file=sys.stderr)
    return folder


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value!r}: give a whole number, at least {least}")


def _check_devices(config: TrainerConfig, device: torch.device) -> None:
    if device.type == "cuda" and config.devices > torch.cuda.device_count():
        raise UserError(f"devices={config.devices}, but this machine has {torch.cuda.device_count()} GPUs")
    if config.devices > 1 and _LAUNCHED:
        raise UserError("one process starts one multi-device run; start the others by commands of their own")


# Lightning starts the other processes once, by running the command line again: a second run would find them gone.
_LAUNCHED: list[Path] = []


def _prepare(folder: RunFolder, config: TrainerConfig, device: torch.device) -> Path | None:
    """Check, clean and describe the run folder; the checkpoint to go on from, if any."""
    if config.devices > 1:
        _LAUNCHED.append(folder.path)
    first = process_rank() == 0
    if first:
        remove_leftovers(folder.path)
    there = checkpoint_folders(folder.checkpoints)
    # The other processes come later, when the first may have written already.
    if there and not config.resume and first:
        raise UserError(
            f"{folder.path} already holds a run, up to {there[-1].name}; continue it with resume={folder.path},"
            " or choose another run folder"
        )
    checkpoint = folder.last_checkpoint() if config.resume else None
    if config.resume and there and checkpoint is None:
        raise UserError(
            f"no checkpoint in {folder.checkpoints} is whole ({', '.join(entry.name for entry in there)} damaged);"
            " restore one from a copy, or start anew in another run folder"
        )
    if config.resume and not there and first:
        warnings.warn(f"{folder.path} holds no checkpoint yet: the run starts at step 0", stacklevel=3)
    if first:
        for damaged in there[there.index(checkpoint) + 1 :] if checkpoint else []:
            # Out of the way of the checkpoint of the same step that the resumed run will write.
            damaged.replace(damaged.with_name(f"damaged-{damaged.name}-{time.time_ns()}"))
        folder.write_environment(
            seed=config.seed,
            device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            devices=config.devices,
            precision=config.precision,
            threads=torch.get_num_threads(),
            from_step=read_about(checkpoint).step if checkpoint else 0,
        )
    return checkpoint


@contextmanager
def _global_settings(config: TrainerConfig) -> Iterator[None]:
    """What Lightning and determinism change in this process is put back afterwards."""
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    # Poisoning every new tensor costs time and finds no nondeterminism.
    memory.fill_uninitialized_memory = False
    seed_all(config.seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


@contextmanager
def _positioned(datamodule: LightningDataModule, batches: int) -> Iterator[None]:
    """The train batches begin at a position and never end."""
    skip = batches
    if hasattr(datamodule, "set_start_step"):
        datamodule.set_start_step(batches)
        skip = 0
    inner = datamodule.train_dataloader
    datamodule.train_dataloader = lambda: _Endless(inner(), skip)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del datamodule.train_dataloader


class _Endless:
    """Iterates a loader over and over, the first `skip` batches left out."""

    def __init__(self, loader: Any, skip: int) -> None:
        self._loader = loader
        self._skip = skip

    def __iter__(self) -> Iterator[Any]:
        left = self._skip
        while True:
            empty = True
            for batch in self._loader:
                empty = False
                if left:
                    left -= 1
                    continue
                yield batch
            if empty:
                raise UserError(
                    "the training data has no batch; check the data, and that a batch is not larger than it"
                )


def _leave_process_group() -> None:
    """Go on alone after a multi-device run: the first process returns to its caller, the others are done."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if process_rank() > 0:
        raise SystemExit(0)
    os.environ.pop("PL_GLOBAL_SEED", None)
