"""`farfield genomics pretrain`: next-base training on a genome, judged by held-out bits per base."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.datamodule import GenomeWindows
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.likelihood import load_model, result_path
from farfield.apps.genomics.tokenizer import BASES, PAD, Policy
from farfield.apps.training import TrainerConfig, UserError, fit
from farfield.apps.training.checkpoint import read_weights
from farfield.apps.training.manifest import read_about
from farfield.apps.training.rng import seed_all
from farfield.apps.training.schedule import cosine_with_warmup

# Settings of trainer/ that are not TrainerConfig's.
SCHEDULE = ("lr", "weight_decay", "warmup_fraction", "lr_min_ratio")


class Pretraining(LightningModule):
    """Cross-entropy of the next token; AdamW with the published parameter groups, warmup and cosine.

    Args:
        model: A language model.
        lr: Peak learning rate.
        weight_decay: Of the matrices outside the filters.
        max_steps: Optimiser steps of the whole run, the length of the schedule.
        warmup_fraction: Share of them spent in warmup.
        lr_min_ratio: Last learning rate over the peak.
    """

    nats: Tensor
    bases: Tensor
    tokens_seen: Tensor

    def __init__(
        self,
        model: HyenaDNA,
        *,
        lr: float,
        weight_decay: float,
        max_steps: int,
        warmup_fraction: float,
        lr_min_ratio: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.weight_decay = lr, weight_decay
        self.max_steps, self.warmup_fraction, self.lr_min_ratio = max_steps, warmup_fraction, lr_min_ratio
        self.register_buffer("nats", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("bases", torch.zeros((), dtype=torch.float64), persistent=False)
        # Not a metric but the abscissa of the report's curve, so it has to survive a resume.
        self.register_buffer("tokens_seen", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, stepped along the schedule after every optimiser step."""
        groups = self.model.param_groups(self.lr, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.999))
        schedule = cosine_with_warmup(optimizer, self.max_steps, self.warmup_fraction, self.lr_min_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean nats of the targets that are not padding."""
        logits, target = self.model(batch["ids"]), batch["target"]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), ignore_index=PAD)
        self.tokens_seen += target.numel()
        self.log_dict({"train/bits_per_base": loss.detach() / math.log(2), "tokens": self.tokens_seen.double()})
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds the nats of every target that is one of A, C, G, T."""
        logits, target = self.model(batch["ids"]), batch["target"]
        nats = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target)
        known = (target >= BASES[0]) & (target <= BASES[-1])
        self.nats += nats[known].sum(dtype=torch.float64)
        self.bases += known.sum()

    def on_validation_epoch_end(self) -> None:
        """Logs val/bits_per_base over the whole held-out part, on all devices."""
        sums: Any = self.all_gather(torch.stack([self.nats, self.bases]))
        nats, bases = sums.view(-1, 2).sum(0)
        self.log("val/bits_per_base", (nats / bases / math.log(2)).float(), rank_zero_only=True)
        self.nats.zero_()
        self.bases.zero_()


def pretrain(
    *,
    run_folder: Path,
    fasta: str | None,
    bed: str | None,
    checkpoint: str | None,
    out: str | None,
    policy: Policy,
    data: dict[str, Any],
    model: dict[str, Any],
    trainer: dict[str, Any],
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
    budget: str | float | None,
) -> float | None:
    """Train and write the model.

    Args:
        run_folder: Where checkpoints and metrics go.
        fasta: Genome; None is the E. coli genome of the package.
        bed: Intervals with a fourth column train, valid or test; None holds out the end of every sequence.
        checkpoint: Weights to start from, in any format, or the name of a packaged model; their shape replaces `model`.
        out: Folder for the trained model; None is `model` in the run folder.
        policy: What stands for a base, as of `Tokenizer`.
        data: Arguments of `GenomeWindows`.
        model: Arguments of `HyenaDNAConfig`.
        trainer: lr, weight_decay, warmup_fraction, lr_min_ratio and arguments of `TrainerConfig`.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        seed: Of weights, windows and dropout.
        resume: Run folder to continue.
        budget: Wall time after which the run ends with a checkpoint: seconds, or text such as "10m".
    Returns: The best held-out bits per base, None where nothing was validated.
    Raises: UserError: files or settings are wrong. Interrupted: a signal came; the checkpoint is written.
    """
    target = result_path(out, run_folder / "model", folder=True)
    schedule = {key: value for key, value in trainer.items() if key in SCHEDULE}
    _check_schedule(**schedule)
    config = TrainerConfig(
        run_folder=run_folder,
        device=device,
        precision=precision,
        seed=seed,
        resume=resume is not None,
        budget=budget,
        monitor="val/bits_per_base",
        **{key: value for key, value in trainer.items() if key not in SCHEDULE},
    )
    windows = GenomeWindows(fasta=fasta, bed=bed, policy=policy, seed=seed, **data)
    seed_all(seed)
    net = HyenaDNA(HyenaDNAConfig(**model)) if checkpoint is None else load_model(checkpoint).train()
    if windows.max_seqlen > net.config.l_max:
        raise UserError(
            f"data: windows of {windows.max_seqlen:,} bases are longer than model.l_max={net.config.l_max:,};"
            " shorten them or set model.l_max"
        )
    bases = [sum(len(s.ids) for s in part) for part in (windows.train_segments, windows.val_segments)]
    print(
        f"{net.config.parameters:,} parameters; {bases[0]:,} bases to train on, {bases[1]:,} held out", file=sys.stderr
    )
    module = Pretraining(net, max_steps=config.max_steps, **schedule)
    run = fit(module, windows, config)
    # Of all checkpoints the one with the lowest held-out bits; the last one where nothing was held out.
    chosen = run.best_checkpoint() or run.last_checkpoint()
    bits = None
    if chosen is not None:
        module.load_state_dict(read_weights(chosen))
        bits = read_about(chosen).value
    save(net, target)
    print(f"{target}: {'not validated' if bits is None else f'{bits:.4f} held-out bits per base'}")
    return bits


def _check_schedule(*, lr: float, weight_decay: float, warmup_fraction: float, lr_min_ratio: float) -> None:
    if not 0 < lr < math.inf:
        raise UserError(f"trainer.lr={lr}: a number above 0 is accepted, for example 6e-4")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"trainer.weight_decay={weight_decay}: 0 or a number above it is accepted, for example 0.1")
    for name, share in (("warmup_fraction", warmup_fraction), ("lr_min_ratio", lr_min_ratio)):
        if not 0 <= share <= 1:
            raise UserError(f"trainer.{name}={share}: a share from 0 to 1 is accepted")
