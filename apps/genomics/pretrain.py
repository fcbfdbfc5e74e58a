"""`farfield genomics pretrain`: next-base training on a genome, judged by held-out bits per base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from safetensors.torch import load_model
from torch import Tensor
from torch.nn import functional as F

from farfield.apps.genomics.checkpoint import save
from farfield.apps.genomics.datamodule import GenomeWindows
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.tokenizer import BASES, PAD
from farfield.apps.training import RunFolder, TrainerConfig, UserError, fit
from farfield.apps.training.schedule import cosine_with_warmup


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

    def configure_optimizers(self) -> dict[str, Any]:
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
        nats, bases = self.all_gather(self.nats).sum(), self.all_gather(self.bases).sum()
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
        checkpoint: Weights to start from, in any format; their shape replaces `model`.
        out: Folder for the trained model; None is `model` in the run folder.
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
    from lightning import seed_everything

    seed_everything(seed, verbose=False)
    windows = GenomeWindows(fasta=fasta, bed=bed, seed=seed, **data)
    net = HyenaDNA.from_checkpoint(checkpoint) if checkpoint else HyenaDNA(HyenaDNAConfig(**model))
    if windows.max_seqlen > net.config.l_max:
        raise UserError(
            f"data: windows of {windows.max_seqlen} bases are longer than model.l_max={net.config.l_max};"
            " shorten them or set model.l_max"
        )
    schedule = {key: trainer.pop(key) for key in ("lr", "weight_decay", "warmup_fraction", "lr_min_ratio")}
    config = TrainerConfig(
        run_folder=run_folder,
        device=device,
        precision=precision,
        seed=seed,
        resume=resume is not None,
        budget=budget,
        monitor="val/bits_per_base",
        **trainer,
    )
    module = Pretraining(net, max_steps=config.max_steps, **schedule)
    run: RunFolder = fit(module, windows, config)
    best = run.best_checkpoint()
    if best is not None:
        # Of all checkpoints the one with the lowest held-out bits, not the last one.
        load_model(module, best / "model.safetensors")
    target = save(net, Path(out) if out else run.path / "model").parent
    bits = [line["val/bits_per_base"] for line in run.metrics() if line.get("val/bits_per_base") is not None]
    print(f"{target}: {f'{min(bits):.4f} held-out bits per base' if bits else 'not validated'}")
    return min(bits, default=None)
