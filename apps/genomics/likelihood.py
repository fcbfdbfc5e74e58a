"""Likelihood of bases under a HyenaDNA: windows in, nats of every target out, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.genomics.datamodule import Ids, padded
from farfield.apps.genomics.hyenadna import HyenaDNA, HyenaDNAConfig
from farfield.apps.genomics.inference import forward_long, memory_estimate
from farfield.apps.genomics.tokenizer import BASES
from farfield.apps.training.device import autocast_for, resolve_device

Nats = NDArray[np.float32]
# Tokens of one forward pass over short windows, so many that the device is busy; a longer window goes alone.
BATCH_TOKENS = {"cpu": 16_384, "cuda": 262_144}
PACKAGED = ("hyenadna-ecoli-1m", "hyenadna-ecoli-1k")


def is_base(ids: Ids) -> NDArray[np.bool_]:
    """Where a token is A, C, G or T."""
    return (ids >= BASES[0]) & (ids <= BASES[-1])


def window_nats(
    model: HyenaDNA,
    windows: Iterable[tuple[int, Ids]],
    *,
    precision: str = "fp32",
    memory_limit: int | None = None,
) -> Iterator[tuple[int, Ids, Nats]]:
    """-log p of each window's targets given the tokens before them in the window.

    Args:
        model: A language model, on the device to use.
        windows: (key, ids (L + 1,)); they are read in order, several at a time.
        precision: fp32, bf16 or fp16.
        memory_limit: Bytes for one forward pass, as of `forward_long`.
    Yields: (key, targets (L,), nats (L,)) in the order of the windows.
    """
    device = model.backbone.table.device
    for batch in _batches(windows, model.config, BATCH_TOKENS[device.type], memory_limit):
        length = max(len(ids) for _, ids in batch)
        # The model is causal: padding on the right changes nothing before it.
        stacked = np.stack([padded(ids, length) for _, ids in batch])
        tokens = torch.from_numpy(stacked.astype(np.int64)).to(device)
        with autocast_for(precision, device):
            likelihood = forward_long(model, tokens, want="log_likelihood", memory_limit=memory_limit)
        rows = -likelihood.float().cpu().numpy()
        for (key, ids), row in zip(batch, rows, strict=True):
            yield key, ids[1:], row[: len(ids) - 1]


def _batches(
    windows: Iterable[tuple[int, Ids]], config: HyenaDNAConfig, tokens: int, limit: int | None
) -> Iterator[list[tuple[int, Ids]]]:
    """Consecutive windows that make up at most so many tokens and fit into the limit; at least one."""
    batch: list[tuple[int, Ids]] = []
    longest = 0
    for key, ids in windows:
        longest = max(longest, len(ids))
        size = len(batch) + 1
        if batch and (longest * size > tokens or (limit is not None and _need(config, longest, size) > limit)):
            yield batch
            batch, longest = [], len(ids)
        batch.append((key, ids))
    if batch:
        yield batch


@cache
def _need(config: HyenaDNAConfig, seqlen: int, batch: int) -> int:
    return memory_estimate(config, seqlen, batch=batch, want="log_likelihood").total(1)


def load_model(checkpoint: str | None, device: str) -> HyenaDNA:
    """A model in evaluation mode on a device: a path, the name of a packaged model, or None for the first of them."""
    packaged = files("farfield.models")
    if checkpoint is None or (checkpoint in PACKAGED and not Path(checkpoint).exists()):
        checkpoint = str(packaged.joinpath(checkpoint or PACKAGED[0]))
    return HyenaDNA.from_checkpoint(checkpoint).to(resolve_device(device)).eval()


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left; yields the function that advances it by so many units."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} {unit}/s")

    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:3.0f}%"), Rate(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(what, total=total)
        yield lambda units: bar.advance(task, units)
